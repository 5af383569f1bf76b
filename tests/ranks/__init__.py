"Scripts that torchrun starts, and who starts them (`start`)"

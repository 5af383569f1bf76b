"Error messages, a module per folder of the package: rows `(what is wrong, a call, a part of its message[, the exception])`"

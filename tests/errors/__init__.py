"Error messages, a module per folder: rows `(what is wrong, a call, a part of its message[, the exception])`"

"""The `crosstax` commands, one file for each stage. They call the other packages and compute nothing themselves."""

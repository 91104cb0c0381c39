"""The handlers of commands, one file for each family."""

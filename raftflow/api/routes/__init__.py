"""The handlers of operations, one file for each noun."""

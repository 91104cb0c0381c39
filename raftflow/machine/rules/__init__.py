"""The rules that commands share. Each changes tables within an `ApplyContext`."""

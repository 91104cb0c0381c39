"""The command that reads events."""

"""The commands that add, rotate and revoke tokens."""

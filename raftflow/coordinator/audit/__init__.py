"""The audit file: written, read, verified."""

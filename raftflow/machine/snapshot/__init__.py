"""The state as a stream of bytes, and back."""

"""The click commands. No logic of their own."""

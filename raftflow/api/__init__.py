"""The HTTP face of a replica."""

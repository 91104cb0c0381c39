"""The types of the HTTP contract."""

"""A replicated log: PySyncObj made safe, and an in-memory log for tests."""

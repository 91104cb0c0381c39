"""The Python SDK: sync and async clients that know the peers."""

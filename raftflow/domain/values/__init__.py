"""Values: exact numbers and text, ids, times, cache keys, encoded pieces."""

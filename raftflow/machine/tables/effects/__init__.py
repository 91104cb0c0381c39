"""Effects: what attempts have called in the world outside, or may have."""

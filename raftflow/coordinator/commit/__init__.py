"""Group commit: how commands travel into the log."""

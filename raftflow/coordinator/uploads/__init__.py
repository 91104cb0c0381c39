"""Large workflows on their way into the log."""

"""Routes of events."""

"""Rate limits: their rows."""

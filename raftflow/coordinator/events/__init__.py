"""Events: what the applied commands changed, derived when somebody asks, and kept within a limit."""

"""Effects: how snapshots hold them, and what must hold of them."""

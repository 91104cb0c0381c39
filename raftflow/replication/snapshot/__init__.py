"""When snapshots are written, and how they reach a follower."""

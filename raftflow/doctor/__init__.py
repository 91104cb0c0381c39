"""`raftflow cluster doctor`: asks every replica how it and its machine are, and judges the answers."""

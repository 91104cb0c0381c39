"""The exchange with the leader: finding it, polling it, and what a poll says."""

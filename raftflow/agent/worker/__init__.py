"""The worker: the process in which python tasks run. Nothing here runs in the agent's own process."""

"""The agent process: leader finding, polling, lease, executors."""

"""The launcher: the process that owns every process of a task, and the messages to it."""

"""The checker: reads a recorded history and says which promises were broken. It shares no code with raftflow."""

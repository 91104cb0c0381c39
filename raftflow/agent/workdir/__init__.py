"""The work directory: safe ways to open and remove what tasks can touch."""

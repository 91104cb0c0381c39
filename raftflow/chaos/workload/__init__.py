"""The load of a chaos run: documents, the clients that submit and read them, the tasks, and the collector."""

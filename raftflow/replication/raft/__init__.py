"""PySyncObj and everything that makes it keep Raft's promises."""

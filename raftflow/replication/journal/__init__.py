"""The journal: log, term and vote on disk."""

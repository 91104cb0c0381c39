"""Forwarding a request to the leader, and the proof that a replica did so."""

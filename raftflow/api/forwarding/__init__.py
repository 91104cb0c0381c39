"""Passing a request on to the leader, and the proof that a replica did so."""

"""Snapshots of a whole cluster, and the way back: restoring one, recovering a survivor, replaying the audit."""

"""Snapshots on disk and on their way to a follower."""

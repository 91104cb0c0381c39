"""The configuration of a replica, and the addresses of the others."""

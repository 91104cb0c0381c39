"""One HTTP exchange with a cluster: its session, the race of connections, the order of peers, and who leads."""

"""Links between replicas: sockets, handshakes, TLS."""

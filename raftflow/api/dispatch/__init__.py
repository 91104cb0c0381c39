"""What every operation shares: its request, its route, and the replica that answers it."""

"""What only a leader does: leases, losses of agents, timers, retention."""

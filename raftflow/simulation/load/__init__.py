"""The load on a simulated cluster: clients, bursts of entries, an operator."""

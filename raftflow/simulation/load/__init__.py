"""Who uses a simulated cluster: clients, bursts, an operator."""

"""The ready queue and the agents as the scheduler sees them."""

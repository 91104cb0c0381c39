"""Sessions of agents: registration, polls, reports, output, and other requests that are held."""

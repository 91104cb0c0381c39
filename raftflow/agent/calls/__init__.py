"""What running attempts ask their agent: a Unix socket for each attempt, and what the agent knows of its steps."""

"""Examples that run on a cluster: data analysis, machine learning, a game world. Each makes its own data."""

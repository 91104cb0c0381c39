"""Scripts that run other systems, each with the python of that system's own virtual environment."""

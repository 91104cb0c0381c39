"""A cluster of real processes on this machine: started, found again, stopped."""

"""Messages between replicas as bytes, and what makes one unacceptable."""

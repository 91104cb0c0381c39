"""What running attempts ask of the cluster: durable steps, and children."""

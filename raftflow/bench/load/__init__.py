"""What benchmarks are made of: load generators, probes, peers, measures."""

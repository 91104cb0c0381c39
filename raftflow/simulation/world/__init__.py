"""The simulated machines: loop, clocks, network, disks, replicas, agents."""

"""Real faults for tests and demonstrations: disks, networks, damaged files, slow machines."""

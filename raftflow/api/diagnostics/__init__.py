"""Facts of the machine that a replica runs on: clocks, disk, files, certificates, pressure."""

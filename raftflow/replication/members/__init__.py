"""Who belongs to the cluster: its list, its birth, the identity of a disk, introductions."""

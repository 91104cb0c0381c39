"""Code bundles: kept on the disks of the replicas, beside the log."""

"""What a replica keeps on disk: the journal (log, term, vote) and snapshots."""

"""An authority for the certificates of one cluster, in a private folder."""

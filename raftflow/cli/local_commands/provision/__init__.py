"""Commands that write the files of a cluster: its configuration and its certificates."""

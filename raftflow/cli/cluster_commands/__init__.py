"""The commands of `raftflow NOUN VERB` that talk to a cluster, one file for each noun."""

"""The files of a real cluster: what `raftflow config init` writes. The same templates make `cluster-configs/`."""

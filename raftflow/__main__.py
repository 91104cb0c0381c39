"""`python -m raftflow`: the same as the `raftflow` command."""

from raftflow.cli.main import main

if __name__ == "__main__":
    main()

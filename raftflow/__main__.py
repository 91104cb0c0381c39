"""`python -m raftflow`: the same as the `raftflow` command.

`python -m` puts the working directory first in the import path. It moves to the end before anything is imported.
"""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))
    from raftflow.cli.entry import main

    main()

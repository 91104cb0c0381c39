"""`python -m raftflow.chaos.checker HISTORY`."""

from __future__ import annotations

import sys

from raftflow.chaos.checker.main import main

if __name__ == "__main__":
    sys.exit(main())

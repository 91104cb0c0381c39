"""The scripts that kill processes while tasks work, as modules and as programs."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "chaos"


def load(name: str) -> ModuleType:
    """Import a script."""
    sys.path.insert(0, str(FOLDER))
    try:
        loader = importlib.machinery.SourceFileLoader(name, str(FOLDER / name))
        spec = importlib.util.spec_from_loader(name, loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # its classes look for their module there
        loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(FOLDER))


def run(name: str, *arguments: str) -> Any:
    """Run a script that must find nothing wrong. Returns what it says."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / name), *arguments], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert (done.returncode, told["faults"]) == (0, []), done.stdout + done.stderr
    return told

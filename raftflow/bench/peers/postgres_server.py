"""A PostgreSQL server for the peers that need one, with its durable defaults (fsync and synchronous_commit on)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psycopg  # type: ignore[import-not-found]
from peer_loop import PeerError, Programs, free_port, program  # type: ignore[import-not-found]

BINARIES = "/usr/lib/postgresql/*/bin"


def start_postgres(programs: Programs, folder: Path) -> str:
    """Start a server of its own, and return its address. Raises `PeerError`."""
    port = free_port()
    binary = program("postgres", "postgresql", BINARIES)
    initdb = program("initdb", "postgresql", BINARIES)
    data = folder / "pg"
    data.mkdir(mode=0o700)
    prefix: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        shutil.chown(data, "postgres", "postgres")
        folder.chmod(0o711)
        folder.parent.chmod(0o711)
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    subprocess.run(
        [*prefix, initdb, "-D", str(data), "-A", "trust", "-U", "postgres"], check=True, stdout=sys.stderr, cwd="/"
    )
    programs.start([*prefix, binary, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(data)], cwd="/")
    address = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(address, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise PeerError(f"PostgreSQL does not start: {error}") from error
            time.sleep(0.05)
        else:
            return address

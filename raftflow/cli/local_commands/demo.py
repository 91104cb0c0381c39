"""`raftflow demo`: a workflow whose leader is killed, with a verdict."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="A temporary directory by default.")
@click.option("--keep", is_flag=True, help="Leave the cluster running and print its addresses.")
def demo(data_dir: Path | None, keep: bool) -> None:
    """Run a real workflow on a cluster of this machine, kill its leader and an agent, and print a verdict.

    Exits with 0 only if every line of the verdict holds.
    """
    from raftflow.demo.main import run_demo  # noqa: PLC0415 - heavy

    click.get_current_context().exit(run_demo(data_dir=data_dir, keep=keep))

"""Cloud operations: a roll-out over labelled zones, with health checks, an approval, and the way back.

    raftflow agent run --name a --label zone=a ...      # and so on: at least one agent for each zone
    python -m raftflow.examples.cloud_operations 2.0 --zones a b c

The first zone is tried alone. If it is healthy, a person decides about the others: the task is parked until then, and
a roll-out about which nobody decides in time goes back. A zone that is not healthy takes everything back. Servers are
files here; what installs and checks them runs on an agent in their zone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import raftflow

SERVERS = 4
"""Of a zone."""
OLDEST = "1.0"


def server_file(folder: str, zone: str, number: int) -> Path:
    """Return the file that stands for a server."""
    return Path(folder) / f"{zone}-{number}.json"


def version_of(folder: str, zone: str, number: int) -> str:
    """Return what is installed on a server."""
    file = server_file(folder, zone, number)
    return str(json.loads(file.read_text(encoding="utf-8"))["version"]) if file.exists() else OLDEST


def look(folder: str, zones: list[str]) -> dict[str, str]:
    """Return the version of every zone: that of its first server."""
    return {zone: version_of(folder, zone, 0) for zone in zones}


@raftflow.task(retries=5, kind="install")
def install(folder: str, zone: str, version: str) -> int:
    """Install a version on the servers of a zone. It may run twice: what is installed stays as it is."""
    for number in range(SERVERS):
        file = server_file(folder, zone, number)
        new = file.with_suffix(f".{raftflow.current().fence}")
        new.write_text(json.dumps({"version": version}), encoding="utf-8")
        new.replace(file)
    return SERVERS


@raftflow.task(retries=5, kind="check")
def check(folder: str, zone: str, version: str) -> list[str]:
    """Return what is wrong with the servers of a zone. A version that names a zone does not work there."""
    found = [version_of(folder, zone, number) for number in range(SERVERS)]
    return [
        f"server {number} of zone {zone} has {has}, and it does not answer"
        for number, has in enumerate(found)
        if has != version or has.endswith(f"-not-in-{zone}")
    ]


def announce(folder: str, text: str) -> None:
    """Tell everybody: append a line to a file."""
    with (Path(folder) / "announcements.txt").open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def was_announced(folder: str, text: str) -> bool:
    """Tell whether everybody knows already."""
    file = Path(folder) / "announcements.txt"
    return file.exists() and text in file.read_text(encoding="utf-8").splitlines()


@raftflow.task(retries=5)
def main(ctx: raftflow.Context, folder: str, version: str, zones: list[str], timeout: str = "1h") -> dict[str, Any]:
    """Roll a version out, zone after zone."""
    before = ctx.step("look", look, folder, zones)
    done: list[str] = []
    problems: list[str] = []
    for zone in zones:
        here = {"zone": zone}
        if len(done) == 1:
            decision = ctx.approval(
                f"Roll {version} out to all zones",
                details={"tried in": done[0], "next": zones[1:]},
                timeout=timeout,
                on_timeout="deny",
            )
            if decision != "approve":
                problems = [decision.comment or ("denied" if decision.by else f"nobody approved it within {timeout}")]
                break
        ctx.spawn(install.options(labels=here), folder, zone, version, key=f"install-{zone}").result()
        done.append(zone)
        problems = ctx.spawn(check.options(labels=here), folder, zone, version, key=f"check-{zone}").result()
        if problems:
            break
    if problems:
        back = [
            ctx.spawn(install.options(labels={"zone": zone}), folder, zone, before[zone], key=f"back-{zone}")
            for zone in done
        ]
        ctx.gather(*back)
    state = "rolled back" if problems else "rolled out"
    ctx.effect("announce", announce, folder, f"{version}: {state}", verify=was_announced)
    return {"state": state, "zones": done, "problems": problems}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("version")
    parser.add_argument("--zones", nargs="+", default=["a", "b", "c"])
    parser.add_argument("--folder", default="servers")
    options = parser.parse_args()
    Path(options.folder).mkdir(exist_ok=True)
    with raftflow.Client() as client:
        run = client.start(main, str(Path(options.folder).resolve()), options.version, options.zones)
        print(f"workflow {run.id}: when the first zone is done, see `raftflow approval list`")
        print(json.dumps(run.result(), indent=2))

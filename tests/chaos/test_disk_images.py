"""File systems in image files: what was stopped is whole again after it was mounted again."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raftflow.local.faults.disk_images import DiskImage, why_impossible

SOON_S = 20.0
BYTES = 64 * 1024 * 1024


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(why_impossible() is not None or shutil.which("unshare") is None, reason="NOT CHECKED: no images")
def test_image_that_another_mount_namespace_holds_is_mounted_again_only_when_it_is_free(tmp_path: Path) -> None:
    """`ip -netns` makes such a namespace for some milliseconds, with a copy of every mount."""
    mountpoint = tmp_path / "disk"
    mountpoint.mkdir()
    image = DiskImage(tmp_path / "disk.img", mountpoint, size=BYTES)
    image.make()
    image.mount()
    holder = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sleep", "60"])
    try:
        name = Path(f"/proc/{holder.pid}/comm")
        eventually(lambda: name.read_text() == "sleep\n")
        image.shut_down()
        unmounting = threading.Thread(target=image.unmount)
        unmounting.start()
        eventually(lambda: not image.mounted)
        assert image.attached
        assert unmounting.is_alive()
        holder.kill()
        holder.wait()
        unmounting.join(SOON_S)
        assert not unmounting.is_alive()
        assert not image.attached
        image.mount()
        (mountpoint / "file").write_text("it takes writes again")
    finally:
        holder.kill()
        holder.wait()
        image.unmount()

"""File systems of their own in image files, for trouble with disks on purpose: a cut of power, a full disk.

Needs root, loop devices and the `mkfs` of the file system. Only what a `DiskImage` mounted itself is unmounted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

KINDS: Final = ("ext4", "xfs")
BYTES_MIN: Final = {"ext4": 64 * 1024 * 1024, "xfs": 300 * 1024 * 1024}
"""Smaller ones cannot be made."""

_MAKE: Final = {"ext4": ("-q", "-F", "-E", "nodiscard"), "xfs": ("-q", "-f")}
_SHUTDOWN: Final = 0x8004587D
"""`XFS_IOC_GOINGDOWN`; ext4 has the same number for `EXT4_IOC_SHUTDOWN`."""
_NO_LOG_FLUSH: Final = 2
"""Neither the file system's own journal nor any data is written out first: what was not synced is lost."""
_COMMAND_S: Final = 60.0
_UNMOUNT_S: Final = 20.0


class ImageError(Exception):
    """The file system cannot be made, mounted or unmounted. Says why."""


def why_impossible(kind: str = "ext4") -> str | None:
    """Return what is missing here for images of this kind, or None."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices (/dev/loop-control is missing)"
    for program in (f"mkfs.{kind}", "mount", "umount"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    known = Path("/proc/filesystems").read_text(encoding="utf-8").split()
    return None if kind in known else f"the kernel does not know {kind}"


class DiskImage:
    """One image file with a file system, and the directory where it is mounted.

    Args:
        image: the file to be made.
        mountpoint: an existing empty directory.
        kind: one of `KINDS`.
        size: bytes; the file is sparse.
    """

    def __init__(self, image: Path, mountpoint: Path, *, kind: str = "ext4", size: int = 1024**3) -> None:
        if kind not in KINDS:
            raise ImageError(f"{kind!r} is not one of {', '.join(KINDS)}")
        if size < BYTES_MIN[kind]:
            raise ImageError(f"{kind} needs {BYTES_MIN[kind]} bytes at least")
        self.image = image
        self.mountpoint = mountpoint.resolve()
        self.kind = kind
        self.size = size

    def make(self) -> None:
        """Write an empty file system into the image. Raises `ImageError`."""
        with self.image.open("xb") as file:
            file.truncate(self.size)
        _run([f"mkfs.{self.kind}", *_MAKE[self.kind], str(self.image)])

    def mount(self) -> None:
        """Mount it; the file system replays its journal if it has to. Raises `ImageError`."""
        _run(["mount", "-t", self.kind, "-o", "loop", str(self.image), str(self.mountpoint)])

    @property
    def mounted(self) -> bool:
        """Whether something is mounted there. The directory itself gives an error after `shut_down`."""
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return any(line.split()[4] == _escaped(self.mountpoint) for line in mounts)

    def shut_down(self) -> None:
        """Stop the file system as a cut of power does: from here on everything fails, nothing more is written.

        What was not synced is lost. Raises `OSError`.
        """
        fd = os.open(self.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def make_read_only(self) -> None:
        """Mount it again as read-only, as a kernel does that found an error. Raises `ImageError` while it is busy.

        Open files that may be written keep an ordinary remount from working, so on ext4 the kernel's own reaction is
        provoked: an abort of its journal with `errors=remount-ro`.
        """
        _run(["mount", "-o", "remount,abort,errors=remount-ro", str(self.mountpoint)])

    def unmount(self) -> None:
        """Unmount it if it is mounted, waiting a while for processes that are just ending. Raises `ImageError`.

        It also waits until the kernel has released the image. A process in another mount namespace, such as one that
        `ip -netns` has just made, holds a copy of the mount. A mount at that time would give the old file system
        again, also if it was shut down.
        """
        deadline = time.monotonic() + _UNMOUNT_S
        while self.mounted:
            try:
                _run(["umount", str(self.mountpoint)])
            except ImageError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
        while self.attached:
            if time.monotonic() >= deadline:
                raise ImageError(f"{self.image} is unmounted, but a loop device still has it after {_UNMOUNT_S:g} s")
            time.sleep(0.02)

    @property
    def attached(self) -> bool:
        """Whether a loop device holds the image, because something is mounted somewhere."""
        wanted = str(self.image.resolve())
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):  # it may go at any time
                if backing.read_text(encoding="utf-8", errors="replace").rstrip("\n") == wanted:
                    return True
        return False


@contextlib.contextmanager
def mounted_images(
    directory: Path, mountpoints: Sequence[Path], *, kind: str = "ext4", size: int = 1024**3
) -> Iterator[list[DiskImage]]:
    """Make and mount one image per mount point, the files in `directory`; all are unmounted and removed afterwards.

    Raises `ImageError`.
    """
    images: list[DiskImage] = []
    try:
        for number, mountpoint in enumerate(mountpoints):
            mountpoint.mkdir(parents=True, exist_ok=True)
            image = DiskImage(directory / f"disk{number}.img", mountpoint, kind=kind, size=size)
            image.make()
            images.append(image)
            image.mount()
        yield images
    finally:
        failures: list[Exception] = []
        for image in images:
            try:
                image.unmount()
                image.image.unlink(missing_ok=True)
            except (ImageError, OSError) as error:
                failures.append(error)
        if failures:
            raise failures[0]


@contextlib.contextmanager
def memory_disk(mountpoint: Path, *, size: int) -> Iterator[None]:
    """Mount a file system of `size` bytes in memory, which can be filled up below an image. Raises `ImageError`."""
    _run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mountpoint)])
    try:
        yield
    finally:
        _run(["umount", str(mountpoint)])


def _escaped(path: Path) -> str:
    """Return an absolute path as `/proc/self/mountinfo` writes it."""
    text = str(path)
    for character in "\\ \t\n":
        text = text.replace(character, f"\\{ord(character):03o}")
    return text


def _run(argv: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            list(argv), capture_output=True, text=True, timeout=_COMMAND_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{' '.join(argv)}: {error}") from error
    if done.returncode != 0:
        raise ImageError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")

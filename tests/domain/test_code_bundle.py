"""Code bundles: one sequence of bytes for a set of files, and a refusal of everything else."""

from __future__ import annotations

import random

import msgspec
import pytest

from raftflow.domain import limits
from raftflow.domain.values.code_bundle import (
    MAGIC,
    BundleError,
    BundleFile,
    digest_of,
    is_digest,
    make_bundle,
    path_problem,
    read_bundle,
)

FILES = [BundleFile("b.py", b"two"), BundleFile("a/x.py", b"one", executable=True), BundleFile("empty", b"")]


def plain(bundle: bytes) -> list[tuple[str, bytes, bool]]:
    return [(file.path, bytes(file.content), file.executable) for file in read_bundle(bundle)]


def raw(index: object, content: bytes = b"", size: str | None = None) -> bytes:
    encoded = index if isinstance(index, bytes) else msgspec.json.encode(index)
    return MAGIC + (size or f"{len(encoded):08x}").encode() + b"\n" + encoded + content


def test_the_files_come_back_in_the_order_of_their_paths() -> None:
    assert plain(make_bundle(FILES)) == [("a/x.py", b"one", True), ("b.py", b"two", False), ("empty", b"", False)]
    assert plain(make_bundle([])) == []


def test_equal_files_give_equal_bytes_and_any_difference_another_digest() -> None:
    first = make_bundle(FILES)
    assert make_bundle(reversed(FILES)) == first
    assert is_digest(digest_of(first))
    others = [
        FILES[1:],
        [*FILES[:2], BundleFile("empty", b"x")],
        [*FILES[:2], BundleFile("empty", b"", executable=True)],
    ]
    assert len({digest_of(make_bundle(files)) for files in (FILES, *others)}) == 4


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("", "characters"),
        ("x" * 513, "characters"),
        ("/etc/passwd", "absolute"),
        ("../x", "absolute"),
        ("a/../../x", "absolute"),
        ("a//b", "absolute"),
        ("a/./b", "absolute"),
        ("a/", "absolute"),
        ("a\\b", "character"),
        ("a\0b", "character"),
        ("a\udc80b", "character"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path: str, told: str) -> None:
    assert told in str(path_problem(path))
    with pytest.raises(BundleError, match=told):
        make_bundle([BundleFile(path, b"")])


@pytest.mark.parametrize(
    ("bundle", "told"),
    [
        (b"", "do not begin"),
        (MAGIC, "do not begin"),
        (raw([["a", 1, False]], b"x")[:-1], "does not describe"),
        (raw([["a", 1, False]], b"xy"), "does not describe"),
        (raw([["a", 10**15, False]], b"x"), "does not describe"),
        (raw([["a", -1, False], ["b", 2, False]], b"x"), "negative"),
        (raw([["b", 0, False], ["a", 0, False]]), "not in its place"),
        (raw([["a", 0, False], ["a", 0, False]]), "comes twice"),
        (raw([["a", 0, False], ["a/b", 0, False]]), "is a file and a folder"),
        (raw([["../a", 0, False]]), "absolute"),
        (raw(b'[ ["a",0,false]]'), "does not describe"),
        (raw([["a", 0, False, "link"]]), "cannot be read"),
        (raw(b"{"), "cannot be read"),
        (raw(b"[" * 100_000), "cannot be read"),
        (raw([], size="-0000001"), "does not describe|cannot be read"),
        (raw([], size="0000 002"), "cannot be read"),
        (raw([], size="0000000A"), "cannot be read|does not describe"),
        (raw([], size="ffffffff"), "does not describe"),
    ],
)
def test_bytes_that_no_folder_gives_are_refused(bundle: bytes, told: str) -> None:
    with pytest.raises(BundleError, match=told):
        read_bundle(bundle)


def test_a_bundle_is_bounded_in_bytes_and_in_files() -> None:
    with pytest.raises(BundleError, match="at most 16777216"):
        make_bundle([BundleFile("a", bytes(limits.BUNDLE_BYTES_MAX))])
    with pytest.raises(BundleError, match="at most 16777216"):
        read_bundle(bytes(limits.BUNDLE_BYTES_MAX + 1))
    with pytest.raises(BundleError, match="4001 files"):
        make_bundle([BundleFile(f"f{number}", b"") for number in range(limits.BUNDLE_FILES_MAX + 1)])


def test_a_damaged_bundle_is_refused_or_has_another_digest() -> None:
    bundle, rng = make_bundle(FILES), random.Random(7)
    for _ in range(200):
        damaged = bytearray(bundle)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        assert digest_of(bytes(damaged)) != digest_of(bundle)
        try:
            files = [BundleFile(*file) for file in plain(bytes(damaged))]
        except BundleError:
            continue
        assert make_bundle(files) == damaged, "two sequences of bytes stand for the same files"


@pytest.mark.parametrize("text", ["", "a" * 63, "A" * 64, "g" * 64, "a" * 65, "a" * 64 + "\n"])
def test_what_is_no_digest(text: str) -> None:
    assert not is_digest(text)

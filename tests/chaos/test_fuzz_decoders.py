"""A short form of `scripts/chaos/fuzz_decoders`, and what it must be able to find."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "chaos" / "fuzz_decoders"
COUNT = 40_000


def test_spoiled_bytes_bring_nothing_unexpected() -> None:
    done = subprocess.run(
        [SCRIPT, "--count", str(COUNT), "--seed", "3"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert told["inputs"] >= COUNT and told["findings"] == []
    assert min(each["taken"] for each in told["decoders"].values()) > 0, "no decoder refuses everything"


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("fuzz_decoders", str(SCRIPT))
    spec = importlib.util.spec_from_loader("fuzz_decoders", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    before = signal.signal(signal.SIGPROF, module.stop_input)
    yield module
    signal.signal(signal.SIGPROF, before)
    for name in ("fuzz_table", "fuzz_doors", "fuzz_mutations"):
        sys.modules.pop(name, None)


def undeclared(data: bytes) -> None:
    if data[:1] == b"x":
        raise KeyError(data)


def endless(data: bytes) -> None:
    while data[:1] == b"x":
        pass


@pytest.mark.parametrize(("decoder", "found"), [(undeclared, "KeyError"), (endless, "CPU time")])
def test_what_a_decoder_does_wrong_is_found(
    fuzz: Any, monkeypatch: pytest.MonkeyPatch, decoder: Callable[[bytes], None], found: str
) -> None:
    monkeypatch.setattr(fuzz, "INPUT_CPU_S", 1.0)

    def spoil(rng: Any, sample: bytes, others: list[bytes]) -> bytes:
        return b"x" + sample

    tally = fuzz.Tally(fuzz.Decoder("planted", [b"good"], decoder, (ValueError,), spoil))
    assert [bool(tally.give(1, number)) for number in (0, 50)] == [False, False], "samples as they are"
    assert found in tally.give(1, 1)


GREEDY = """
import importlib.machinery, importlib.util, signal, sys
loader = importlib.machinery.SourceFileLoader("fuzz_decoders", sys.argv[1])
fuzz = importlib.util.module_from_spec(importlib.util.spec_from_loader("fuzz_decoders", loader))
loader.exec_module(fuzz)
signal.signal(signal.SIGPROF, fuzz.stop_input)
read = lambda data: b"1" * (1 << 30) if data == b"b" else 0
tally = fuzz.Tally(fuzz.Decoder("greedy", [b"a"], read, (), lambda *_: b"b"))
print(tally.give(1, 50), "|", tally.give(1, 1))
"""


def test_an_input_that_takes_much_memory_is_found() -> None:
    """In a process of its own: this one may have had more memory before. A child begins with what its parent had."""
    done = subprocess.run([sys.executable, "-c", GREEDY, SCRIPT], capture_output=True, text=True, check=True)
    before, _, after = done.stdout.partition("|")
    assert before.strip() == "" and "MiB of memory" in after


def test_an_input_is_the_same_in_each_run(fuzz: Any) -> None:
    (decoder,) = [each for each in fuzz.decoders() if each.name == "bundle"]
    tallies = [fuzz.Tally(decoder), fuzz.Tally(decoder)]
    inputs = [[tally.input(5, number) for number in range(1, 40)] for tally in tallies]
    assert inputs[0] == inputs[1]
    assert len(set(inputs[0])) > 30


DEEP = b"\x91" * 2_000
NESTED = b"[" * 2_000


def spoiled_state(sample: bytes) -> bytes:
    """Return a state with an upload of more tasks than any memory has."""
    upload = msgspec.msgpack.encode(["wf-1", "w", 50, "stop", None, 2**40, 0, 0])
    frame = (len(upload) + 1).to_bytes(4, "big") + b"U" + upload
    return sample[:-6] + frame + sample[-6:]  # before the frame that ends it


def header(**fields: Any) -> bytes:
    known = {"index": 5, "term": 2, "prev_index": 4, "prev_term": 2, "last_command": b"x", "prev_command": b"y"}
    return msgspec.msgpack.encode({**known, "members": [], **fields})


SLOW = [
    b"#?" + b"\n" * 60_000 + b"?",
    b"<?xml?>" + b"<!---->" * 60 + b"<adam",
    b"a" + b" " * 60_000 + b"?",
]
"""Texts that are no document, and kept the search for their format busy for seconds, or for ever."""


@pytest.mark.parametrize("place", range(len(SLOW)))
def test_a_text_of_no_known_format_is_refused_soon(fuzz: Any, place: int) -> None:
    (decoder,) = [each for each in fuzz.decoders() if each.name == "document.detected"]
    tally = fuzz.Tally(decoder._replace(spoil=lambda _rng, _sample, _others: SLOW[place]))
    assert tally.give(1, 1) == ""
    assert tally.refused == 1


async def test_an_empty_head_is_no_message(fuzz: Any) -> None:
    (decoder,) = [each for each in fuzz.doors() if each.name == "request"]
    decoder.read(b"\r\n\r\n")


FOUND: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("entry", lambda _: b"\x92\x01\x91\x91\xa2\xff\xff"),
    ("entry.applied", lambda _: b"\x92\x01\x91\x91\xa2\xff\xff"),
    ("snapshot.header", lambda _: header(members=["xy"]).replace(b"xy", b"\xff\xff")),
    ("snapshot.header", lambda _: header(other=1)[:-1] + DEEP),
    ("introduction", lambda _: b"\x81\xa5other" + DEEP),
    ("birth", lambda _: b"\x81\xa5other" + DEEP),
    ("file.starts", lambda _: b'{"starts":' + NESTED),
    ("audit.record", lambda _: b"\x81\xa5other" + DEEP),
    ("state", spoiled_state),
    ("document.toml", lambda _: b"a=0x1\nb" + b".a" * 1_000 + b"=1"),
    ("worker.answer", lambda _: b"\x9f\x01\xc3" + DEEP),
]
"""What the decoders took badly once: with another error, or with all memory."""


@pytest.mark.parametrize(("name", "spoil"), FOUND, ids=[f"{place}-{name}" for place, (name, _) in enumerate(FOUND)])
def test_what_was_found_is_refused(fuzz: Any, name: str, spoil: Callable[[bytes], bytes]) -> None:
    (decoder,) = [each for each in fuzz.decoders() if each.name == name]
    with pytest.raises(decoder.refuses):
        decoder.read(spoil(decoder.samples[0]))

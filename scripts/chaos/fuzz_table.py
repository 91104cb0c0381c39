"""The decoders that `fuzz_decoders` tries: what each reads, which errors it declares, and valid samples."""

from __future__ import annotations

import atexit
import random
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from fuzz_mutations import encode_json, encode_msgpack, examples, spoil_bytes, spoil_value

from raftflow.agent.calls.requests import AnyRequest, RequestFault, read_request
from raftflow.agent.launcher.messages import FromLauncher, FunctionCall, Returned, ToLauncher
from raftflow.api.diagnostics import certificates
from raftflow.api.http import bodies
from raftflow.api.http.problems import ProblemError
from raftflow.api.routes.agents import read_poll
from raftflow.api.routes.workflows import _read_document
from raftflow.coordinator.audit import frames as audit_frames
from raftflow.coordinator.config.hostnames import parse_host
from raftflow.domain import commands
from raftflow.domain.contract import views
from raftflow.domain.contract.cluster import CertificateFacts
from raftflow.domain.contract.operations import OPERATIONS
from raftflow.domain.features import FeatureLevelError
from raftflow.domain.tasks.peer_urls import learn_peers
from raftflow.domain.tasks.resources import parse_amount
from raftflow.domain.values.code_bundle import BundleError, BundleFile, make_bundle, read_bundle
from raftflow.formats import files
from raftflow.formats.agents import read_agents
from raftflow.formats.documents import normalize
from raftflow.formats.faults import DocumentError
from raftflow.formats.readers import toml_reader
from raftflow.machine.machine import Machine
from raftflow.machine.rules.audit_chain import decode_record
from raftflow.machine.snapshot.stream import read_snapshot_header
from raftflow.recovery import cluster_snapshot
from raftflow.replication.errors import LogFailedError
from raftflow.replication.members import birth_file, births, identity, introducer, introductions, membership, starts
from raftflow.replication.messages import envelope, wire
from raftflow.replication.net.handshake import Acceptor, Credentials, Dialer, HandshakeError
from raftflow.replication.storage import records, segments, snapshot_file

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN = ROOT / "tests" / "compat" / "golden"
Spoil = Callable[[random.Random, Any, list[bytes]], bytes]
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not of a type. Callers of its decoders catch these three."""


class Decoder(NamedTuple):
    """Something that reads bytes of others."""

    name: str
    samples: list[Any]
    read: Callable[[bytes], object]
    """Reads an input. Raises `WrongReadError` if it believes what it should not."""
    refuses: tuple[type[BaseException], ...]
    """The errors that it declares."""
    spoil: Spoil = spoil_bytes
    encode: Callable[[Any], bytes] = bytes
    """Makes an input of a sample."""


class WrongReadError(Exception):
    """A decoder took an input for what it is not."""


def require(is_true: object, what: str) -> None:
    """Raise `WrongReadError` unless something holds."""
    if not is_true:
        raise WrongReadError(what)


def spoil_json(rng: random.Random, sample: bytes, others: list[bytes]) -> bytes:
    """Change values, or bytes, of JSON."""
    if rng.random() < 0.25:
        return spoil_bytes(rng, sample, others)
    return encode_json(spoil_value(rng, msgspec.json.decode(sample)))


def spoil_msgpack(rng: random.Random, sample: bytes, others: list[bytes]) -> bytes:
    """Change values, or bytes, of MessagePack."""
    if rng.random() < 0.25:
        return spoil_bytes(rng, sample, others)
    try:
        value = msgspec.msgpack.decode(sample)
    except _UNREADABLE:  # a part of a sample
        return spoil_bytes(rng, sample, others)
    return encode_msgpack(spoil_value(rng, value))


def _of_type(
    name: str, kind: Any, read: Callable[[bytes], object], refuses: tuple[type[BaseException], ...], *, is_json: bool
) -> Decoder:
    encode, spoil = (encode_json, spoil_json) if is_json else (encode_msgpack, spoil_msgpack)
    return Decoder(name, [encode(each) for each in examples(kind, 60)], read, refuses, spoil)


# --- between replicas


def _between_replicas() -> Iterator[Decoder]:
    secret, cluster = b"s" * 32, "c"
    n1, n2 = (Credentials(name=name, cluster_id=cluster, secret=secret) for name in ("n1", "n2"))

    def acceptor() -> Acceptor:
        return Acceptor(n2, ["n1"], nonce=bytes)

    dialer, other = Dialer(n1, "n2", nonce=bytes), acceptor()
    challenge = other.step(dialer.first)
    proof = dialer.step(challenge)
    answer = other.step(proof)
    hello = dialer.first + proof

    def shake(data: bytes) -> None:
        side = acceptor()
        size = side.need
        side.step(data[:size].ljust(size, b"\0"))
        size = side.need
        side.step(data[len(dialer.first) :][:size].ljust(size, b"\0"))
        require(data[: len(hello)] == hello, "a side without the secret has proved itself")

    def dial(data: bytes) -> None:
        side = Dialer(n1, "n2", nonce=bytes)
        side.step(data[: len(challenge)].ljust(len(challenge), b"\0"))
        side.step(data[len(challenge) :][: side.need].ljust(side.need, b"\0"))
        require(data[: len(challenge + answer)] == challenge + answer, "a side without the secret has proved itself")

    yield Decoder("handshake.accept", [hello], shake, (HandshakeError,))
    yield Decoder("handshake.dial", [challenge + answer], dial, (HandshakeError,))

    entry = envelope.seal(b"entry")
    messages: list[dict[str, Any]] = [
        {
            "type": "append_entries",
            "term": 3,
            "commit_index": 5,
            "entries": [(entry, 8, 2), (entry, 9, 3)],
            "prevLogIdx": 7,
            "prevLogTerm": 2,
        },
        {"type": "append_entries", "term": 3, "commit_index": 5},
        {"type": "request_vote", "term": 3, "last_log_index": 5, "last_log_term": 2},
        {"type": "pre_vote", "term": 3, "last_log_index": 5, "last_log_term": 2, "seq": 1},
        {"type": "next_node_idx", "term": 3, "next_node_idx": 4, "reset": True, "success": False},
        {"type": "snapshot_begin", "term": 3, "transfer_id": 1, "index": 5, "snap_term": 2, "size": 100},
        {"type": "snapshot_chunk", "term": 3, "transfer_id": 1, "offset": 0, "data": b"x" * 100},
        {"type": "snapshot_ack", "term": 3, "transfer_id": 1, "offset": 0, "status": "more"},
        {"type": "birth", "body": b"body"},
        {"type": "read_probe", "term": 3, "seq": 9},
    ]

    def frame(data: bytes) -> None:
        encoded = wire.encode(wire.decode(data))
        require(
            (encoded if isinstance(encoded, bytes) else b"".join(encoded)) == data, "another frame means the same"
        )

    frames = [wire.encode(message) for message in messages]
    yield Decoder(
        "frame", [each if isinstance(each, bytes) else b"".join(each) for each in frames], frame, (wire.FrameError,)
    )
    member_list = (GOLDEN / "level-1" / "membership.bin").read_bytes().removeprefix(membership.MARK)
    yield Decoder("membership", [member_list], membership.decode, (membership.MembershipError,), spoil_msgpack)
    yield Decoder(
        "envelope", [entry, envelope.NO_OP, membership.MARK + member_list], envelope.check, (envelope.EnvelopeError,)
    )
    for name, kind in (
        ("introduction", introductions.Introduction),
        ("introduction.reply", introductions.IntroductionReply),
        ("birth", births.BirthMessage),
    ):
        yield _of_type(name, kind, partial(introductions.read_frame, kind=kind), (ValueError,), is_json=False)


# --- the log and what is on the disk


class _Bytes:
    """A file in memory."""

    path = Path("file")

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def write_at(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data

    def sync(self) -> None:
        """Nothing: it is memory."""


def golden_entries() -> list[bytes]:
    """Return entries with every command, in order."""
    return [file.read_bytes() for file in sorted((GOLDEN / "level-1" / "entries").glob("*.bin"))]


def _entries() -> Iterator[Decoder]:
    entries = golden_entries()
    yield Decoder("entry", entries, commands.decode_entry, (commands.EntryError,), spoil_msgpack)
    state: list[Any] = [None, 0]
    snapshot = _machine_bytes()

    def apply(data: bytes) -> None:
        """Decode and apply: whatever an entry holds, the machine replies, and goes on."""
        if state[0] is None or state[1] >= 200:
            state[0], state[1] = Machine(), 0
            state[0].restore([snapshot])
        commands.decode_entry(data)
        state[1] += 1
        try:
            state[0].apply(state[0].applied_index + 1, state[0].applied_term, data)
        except BaseException:
            state[0] = None  # half an entry
            raise

    yield Decoder("entry.applied", entries, apply, (commands.EntryError, FeatureLevelError), spoil_msgpack)


def _machine_bytes() -> bytes:
    machine = Machine()
    for index, entry in enumerate(golden_entries(), start=1):
        machine.apply(index, 1, entry)
    return b"".join(machine.snapshot())


def _journal() -> Iterator[Decoder]:
    folder = GOLDEN / "level-1" / "replica" / "journal"
    numbered = {int(file.stem, 16): file.read_bytes() for file in folder.iterdir()}
    by_data = {data[:64]: number for number, data in numbered.items()}

    def read(data: bytes) -> None:
        segments.read_segment(Path("segment"), by_data.get(data[:64], min(numbered)), data, end=None)

    yield Decoder("journal.segment", list(numbered.values()), read, (LogFailedError,))
    batches = [
        records.RecordBatch(flags=records.OPENING, cut=1, base=2, commit=3, term=4, first_index=5),
        records.RecordBatch(
            commit=3,
            term=4,
            vote="n1",
            first_index=5,
            entries=[(envelope.seal(b"x" * 50), 5, 4), (envelope.NO_OP, 6, 4)],
        ),
    ]
    payloads = [b"".join(records.encode_payload(batch)) for batch in batches]
    yield Decoder("journal.payload", payloads, records.decode_payload, (ValueError,))

    def sealed(data: bytes) -> None:
        """Read a segment whose records have correct checksums, whatever is in them."""
        content = bytearray(records.encode_prefix(0))
        chain = 0
        opening = payloads[0]
        for payload in (opening, data):
            record, chain = _record(payload, len(content), chain)
            content += record
        segments.read_segment(Path("segment"), 1, bytes(content), end=None)

    yield Decoder("journal.sealed", payloads[1:], sealed, (LogFailedError,))


def _record(payload: bytes, offset: int, chain: int) -> tuple[bytes, int]:
    seed = crc32(struct.pack("<QQ", 1, offset))
    head = struct.pack("<IIIIQI", 0xC3B1D2E7, len(payload), crc32(payload, seed), chain, 0, 0)
    crc = crc32(head, seed)
    return head + struct.pack("<II", crc, 0x9D6BB5D9) + payload + (b"\xa5\0\0\0", b"\xa5\0\0", b"\xa5\0", b"\xa5")[
        len(payload) & 3
    ], crc


def _snapshots() -> Iterator[Decoder]:
    folder = GOLDEN / "level-1" / "replica" / "snapshots"
    whole = [file.read_bytes() for file in folder.iterdir()]

    def read(data: bytes) -> None:
        file = _Bytes(data)
        _, header, offset = snapshot_file.read_header(file.path, file)
        for _ in snapshot_file.read_blocks(file.path, file, header, offset):
            pass

    yield Decoder("snapshot.file", whole, read, (LogFailedError,))
    info = snapshot_file.SnapshotInfo(
        index=5, term=2, prev_index=4, prev_term=2, last_command=b"x", prev_command=b"y", members=("n1",)
    )

    def sealed(data: bytes) -> None:
        """Read a file whose header has a correct checksum, whatever is in it."""
        prefix = struct.pack("<8sI", b"RFLOWSNP", snapshot_file.FORMAT)
        prefix += struct.pack("<I", crc32(prefix))
        head = prefix + struct.pack("<II", len(data), snapshot_file.seeded_crc(data, len(prefix))) + data
        end = struct.pack("<IIQ32s", 0, 0, 0, blake2b(data, digest_size=32).digest())
        read(head + end + struct.pack("<I", snapshot_file.seeded_crc(end, len(head))))

    header = msgspec.msgpack.encode(info)
    yield Decoder("snapshot.header", [header], sealed, (LogFailedError,), spoil_msgpack)
    yield Decoder(
        "state",
        [_machine_bytes()],
        lambda data: Machine().restore([data]),
        (ValueError, FeatureLevelError),
        _spoil_frames,
    )
    yield Decoder(
        "state.header", [_machine_bytes()], lambda data: read_snapshot_header([data]), (ValueError,), _spoil_frames
    )


def _spoil_frames(rng: random.Random, sample: bytes, others: list[bytes]) -> bytes:
    """Change one frame of a state, and let its length fit again."""
    if rng.random() < 0.2:
        return spoil_bytes(rng, sample, others)
    frames: list[bytes] = []
    at = 0
    while at + 4 <= len(sample):
        size = int.from_bytes(sample[at : at + 4], "big")
        frames.append(sample[at + 4 : at + 4 + size])
        at += 4 + size
    place = rng.randrange(len(frames))
    kind, content = frames[place][:1], frames[place][1:]
    match rng.randrange(6):
        case 0:
            del frames[place]
        case 1:
            frames.insert(rng.randrange(len(frames)), frames[place])
        case _:
            spoiled = spoil_msgpack(rng, content, others) if content else b""
            frames[place] = kind + spoiled
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


class _OneFile:
    """A folder with one file."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = data

    def list_dir(self, _path: Path) -> list[str]:
        return [self._name]

    def read(self, _path: Path) -> bytes:
        return self._data


def _small_files() -> Iterator[Decoder]:
    folder = GOLDEN / "level-1" / "replica"

    def resealed(key: str) -> Spoil:
        def spoil(rng: random.Random, sample: bytes, others: list[bytes]) -> bytes:
            """Change what a file says, and let its checksum fit again."""
            if rng.random() < 0.3:
                return spoil_bytes(rng, sample, others)
            inner = bytes(msgspec.json.decode(sample, type=dict[str, msgspec.Raw])[key])
            changed = spoil_json(rng, inner, others)
            return b'{"%s":%s,"crc32":%d}' % (key.encode(), changed, crc32(changed))

        return spoil

    path = Path("file")
    disk = msgspec.json.decode((folder / "birth").read_bytes())["birth"]["disk"]
    readers: dict[str, tuple[str, Callable[[bytes], object]]] = {
        "identity": ("identity", lambda data: identity._decode(path, data)),  # noqa: SLF001 - of a file, as it is
        "peers": ("peers", lambda data: introducer._decode(path, data)),  # noqa: SLF001
        "starts": ("starts", lambda data: starts._decode(path, data)),  # noqa: SLF001
        "birth": (
            "birth",
            lambda data: birth_file.BirthFile(_OneFile("birth", data), Path(), ordered_now=False).read(disk),
        ),  # type: ignore[arg-type]
    }
    for name, (key, read) in readers.items():
        yield Decoder(f"file.{name}", [(folder / name).read_bytes()], read, (LogFailedError,), resealed(key))
    yield Decoder(
        "file.members",
        [(folder / "members").read_bytes()],
        lambda data: membership.load_first(_OneFile("members", data), Path(), membership.Membership((), (), ())),  # type: ignore[arg-type]
        (LogFailedError,),
        spoil_json,
    )
    audit = [file.read_bytes() for file in (folder / "audit").iterdir()]

    def read_audit(data: bytes) -> None:
        for each in audit_frames.frames_in(data, path):
            audit_frames.chain_of(each)

    yield Decoder("audit.file", audit, read_audit, (audit_frames.AuditError,), _spoil_audit)
    found = [each.payload for each in audit_frames.frames_in(audit[0], path) if each.kind == audit_frames.RECORD]
    yield Decoder("audit.record", found, decode_record, (ValueError,), spoil_msgpack)


def _spoil_audit(rng: random.Random, sample: bytes, others: list[bytes]) -> bytes:
    if rng.random() < 0.3:
        return spoil_bytes(rng, sample, others)
    made = bytearray(audit_frames.MAGIC)
    for frame in [*audit_frames.frames_in(sample, Path("file"))][: rng.choice((1, 3, 20))]:
        payload = spoil_msgpack(rng, frame.payload, others) if rng.random() < 0.2 else frame.payload
        made += audit_frames.encode_frame(rng.choice((frame.kind, frame.kind, 1, 2)), frame.index, payload)
    return bytes(made)


def _users_files() -> Iterator[Decoder]:
    """Files that people bring: snapshots to restore, and lists of agents to plan for."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-decoders-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made, path = folder / "made", folder / "spoiled"
    machine = Machine()
    machine.restore([_machine_bytes()])
    info = snapshot_file.SnapshotInfo(
        index=machine.applied_index,
        term=machine.applied_term,
        prev_index=1,
        prev_term=1,
        last_command=b"x",
        prev_command=b"y",
        members=("n1",),
    )
    cluster_snapshot.save_machine(made, machine, info, cluster_snapshot.SnapshotOrigin("c", "n1", 1))

    whole = made.read_bytes()
    with cluster_snapshot.ClusterSnapshotFile(made) as taken:
        body = whole[-taken.label.size :]

    def check(data: bytes) -> None:
        path.write_bytes(data)
        with cluster_snapshot.ClusterSnapshotFile(path) as file:
            file.check()
        require(data.endswith(body), "a body that was changed is taken")

    yield Decoder("cluster.snapshot", [whole], check, (cluster_snapshot.SnapshotFileError,), _spoil_label)
    agents = b"""
[[agents]]
name = "gpu"
count = 3
resources = { cpu = 4, memory = "8GiB", gpu = 1 }
labels = { zone = "a" }
speed = 1.5
cost_rate = 2
fail_rate = "1/h"
"""
    read = (files.FormatError, DocumentError, toml_reader.TomlError, UnicodeDecodeError)
    yield Decoder(
        "agents.toml", [agents], lambda data: read_agents(toml_reader.parse_toml(data.decode("utf-8-sig"))), read
    )


def _spoil_label(rng: random.Random, sample: bytes, others: list[bytes]) -> bytes:
    """Change the label of a snapshot, and let its checksum fit again; or any bytes."""
    if rng.random() < 0.5:
        return spoil_bytes(rng, sample, others)
    prefix, crc = cluster_snapshot._PREFIX, cluster_snapshot._CRC  # noqa: SLF001 - the form of the file
    magic, version, length = prefix.unpack_from(sample)
    start = prefix.size + crc.size
    label = spoil_json(rng, sample[start : start + length], others)
    head = prefix.pack(magic, version, len(label))
    return head + crc.pack(crc32(label, crc32(head))) + label + sample[start + length :]


# --- what clients, agents and tasks send


def _documents() -> Iterator[Decoder]:
    folder = ROOT / "raftflow" / "formats" / "examples"
    texts = {
        form: [file.read_bytes() for file in folder.iterdir() if file.name.endswith(ending)]
        for form, ending in (("toml", ".toml"), ("yaml", ".yaml"), ("wfformat", "wfformat.json"))
    }

    def read(form: str | None) -> Callable[[bytes], object]:
        return lambda data: normalize(files.loads(data, form))

    for form, samples in texts.items():
        yield Decoder(
            f"document.{form}",
            samples,
            read(form),
            (files.FormatError, DocumentError),
            spoil_json if form == "wfformat" else spoil_bytes,
        )
    every = [each for samples in texts.values() for each in samples]
    yield Decoder("document.detected", every, read(None), (files.FormatError, DocumentError))
    document = {
        "name": "w",
        "priority": 5,
        "on_failure": "stop",
        "max_parallel": 3,
        "budgets": {"usd": 20.0, "tokens": {"soft": 5, "hard": 10}},
        "defaults": {"retries": 3, "retry_delay": "2s", "resources": {"cpu": 1}, "env": {"A": "1"}},
        "tasks": [
            {
                "id": "a",
                "command": ["true"],
                "env": {"K": "V"},
                "cwd": "/srv",
                "constraints": {"labels": {"zone": "a"}},
            },
            {
                "id": "b",
                "needs": ["a"],
                "python": "m:f",
                "args": [{"$result": "a"}],
                "kwargs": {"x": 1},
                "timeout": "5m",
            },
            {
                "id": "c",
                "container": {"image": "i:1", "command": ["x"]},
                "resources": {"memory": "1GiB", "gpu": 1},
                "rates": {"llm": 2},
            },
            {"id": "d", "wait": {"signal": "go", "timeout": "3d"}},
            {"id": "e", "wait": {"approval": "Publish?"}, "needs": ["c", "d"]},
        ],
    }
    yield Decoder("document.json", [encode_json(document)], _read_document, (ProblemError,), spoil_json)


def _bodies() -> Iterator[Decoder]:
    seen: set[Any] = set()
    for operation in OPERATIONS:
        if operation.body not in (None, bytes) and operation.body not in seen:
            seen.add(operation.body)
            kind = operation.body
            yield _of_type(
                f"body.{operation.name}",
                kind,
                lambda data, kind=kind: bodies.decode(data, kind),
                (ProblemError,),
                is_json=True,
            )  # type: ignore[misc]
    yield _of_type("poll", views.PollRequest, read_poll, (ProblemError,), is_json=True)


def _of_agents() -> Iterator[Decoder]:
    yield _of_type("attempt.line", AnyRequest, read_request, (RequestFault,), is_json=True)
    for name, kind in (
        ("worker.answer", Returned),
        ("worker.call", FunctionCall),
        ("launcher.order", ToLauncher),
        ("launcher.report", FromLauncher),
    ):
        yield _of_type(name, kind, msgspec.msgpack.Decoder(kind).decode, _UNREADABLE, is_json=False)
    for kind in (
        views.PollResponse,
        views.CallsResponse,
        views.RegisterResponse,
        views.InputsPiece,
        views.LeaderNotice,
    ):
        yield _of_type(f"answer.{kind.__name__}", kind, msgspec.json.Decoder(kind).decode, _UNREADABLE, is_json=True)


def _values() -> Iterator[Decoder]:
    bundle = make_bundle([BundleFile("a/b.py", b"x = 1\n"), BundleFile("c", b"", executable=True)])

    def unpack(data: bytes) -> None:
        require(make_bundle(read_bundle(data)) == data, "other bytes are the same bundle")

    yield Decoder("bundle", [bundle, make_bundle([])], unpack, (BundleError,))

    def names(data: bytes) -> None:
        text = data.decode("latin-1")
        parse_host(text)
        learn_peers(text, "http://h:1")

    yield Decoder("header.names", [b"localhost:7001", b"[::1]:80", b"http://h:1,https://a:2"], names, ())
    yield Decoder(
        "amount",
        [b"512MiB", b"1.5", b"1e3"],
        lambda data: (parse_amount("memory", data.decode("latin-1")), parse_amount("x", data.decode("latin-1"))),
        (ValueError,),
    )
    der = _certificate()
    if der:
        facts = CertificateFacts(setting="", path="")
        yield Decoder(
            "certificate",
            [der],
            lambda data: certificates._read_fields(data, facts),  # noqa: SLF001 - of a file, as it is
            (ValueError, IndexError, OverflowError),
        )


def _certificate() -> bytes:
    """Return a certificate with names, empty if the library that makes one is missing."""
    try:
        import datetime as dt  # noqa: PLC0415

        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    except ImportError:
        return b""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "n1")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
    )
    builder = builder.not_valid_before(start).not_valid_after(start + dt.timedelta(days=90))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example")]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def decoders() -> list[Decoder]:
    """Return all decoders that need no replica around them."""
    return [
        each
        for part in (
            _between_replicas,
            _entries,
            _journal,
            _snapshots,
            _small_files,
            _users_files,
            _documents,
            _bodies,
            _of_agents,
            _values,
        )
        for each in part()
    ]

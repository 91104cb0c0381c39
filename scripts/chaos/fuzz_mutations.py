"""How `fuzz_decoders` spoils valid samples: bytes at random, and the values inside of JSON and MessagePack."""

from __future__ import annotations

import random
import struct
from typing import Any

import msgspec
from msgspec import inspect

BYTES_MAX = 64 * 1024
"""Longest input. What happens beyond the limits of a decoder has tests of its own."""
_CHANGES_MAX = 6
_DEEP = 4
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_NESTED = (
    b"[" * 2_000,
    b'{"a":' * 1_000,
    b"\x91" * 2_000,
    b"\x81\xa1a" * 1_000,
    b"((((" * 500,
    b"- " * 800,
    b"a.b." * 500,
)
_WORDS = (
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\r\n",
        b"\n",
        b" ",
        b"\t",
        b'"',
        b"\\",
        b"\\u0000",
        b"\\ud800",
    ),
    *(
        b"null",
        b"true",
        b"NaN",
        b"Infinity",
        b"-0",
        b"1e999",
        b"1e-999",
        b"9" * 400,
        b"0x10",
        b"{}",
        b"[]",
        b'""',
        b"''",
    ),
    *(
        b"../",
        b"%00",
        b"%2f",
        b"..%2f",
        b"&a",
        b"*a",
        b"<<: *a",
        b"!!python/object:os.system",
        b"!!binary ",
        b"---\n",
    ),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: 5\r\n",
        b"0\r\n\r\n",
        b"\r\n\r\n",
    ),
    *(
        b"Content-Encoding: gzip\r\n",
        b" HTTP/1.1\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: upgrade\r\n",
        b": ",
        b"=",
    ),
)
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2**31,
        2**53 + 1,
        2**63 - 1,
        -(2**63),
        2**64 - 1,
        1.5,
        1e308,
        -0.0,
        float("inf"),
        float("nan"),
    ),
    *(
        "",
        "a",
        "\x00",
        "é" * 300,
        "x" * 3_000,
        "\u2028",
        "..",
        "../..",
        "a/b",
        "%00",
        "512MiB",
        "1e9",
        "*",
        "$result",
        "a:b",
    ),
    *(
        [],
        {},
        [[]],
        {"": ""},
        [None],
        {"a": {}},
        {"$result": "a"},
        ["a", "a"],
        list(range(200)),
        {str(n): n for n in range(70)},
    ),
)


def spoil_bytes(rng: random.Random, sample: bytes, others: list[bytes]) -> bytes:
    """Change some bytes of a sample, or mix it with others."""
    data = bytearray(sample)
    for _ in range(rng.choice((1, 1, 1, 2, 3, _CHANGES_MAX))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 4, 8, 40, 400)))
        match rng.randrange(12):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.randrange(256)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end]
            case 4:
                data[at:at] = data[at:end] * rng.choice((2, 10, 100))
            case 5:
                data[at:at] = rng.randbytes(rng.choice((1, 2, 8, 60)))
            case 6:
                form = rng.choice((">B", ">H", "<H", ">I", "<I", ">Q", "<Q"))
                number = struct.pack(form, rng.choice(_EDGES) % 256 ** struct.calcsize(form))
                data[at : at + len(number)] = number
            case 7:
                other = rng.choice(others)
                first = rng.randrange(len(other) + 1)
                data[at : rng.choice((at, end, len(data)))] = other[first : first + rng.choice((8, 100, 10_000))]
            case 8:
                del data[at:]
            case 9:
                data[at:at] = rng.choice(_WORDS)
            case 10:
                data[at : rng.choice((at, end))] = rng.choice(_NESTED)[: rng.choice((20, 200, 8_000))]
            case _ if data:
                other_at = rng.randrange(len(data))
                data[at:end], data[other_at : other_at + 4] = data[other_at : other_at + 4], data[at:end]
        del data[BYTES_MAX:]
    return bytes(data)


def spoil_value(rng: random.Random, value: Any) -> Any:
    """Return a copy of a decoded value in which some parts are others."""
    for _ in range(rng.choice((1, 1, 1, 1, 2, 4))):
        value = _spoil_once(rng, value, rng.choice((0, 1, 1, 2, 2, 3, 3, 4, 6)))
    return value


def _spoil_once(rng: random.Random, value: Any, depth: int) -> Any:
    if depth and isinstance(value, dict) and value:
        key = rng.choice(list(value))
        return {**value, key: _spoil_once(rng, value[key], depth - 1)}
    if depth and isinstance(value, list | tuple) and value:
        at = rng.randrange(len(value))
        return [*value[:at], _spoil_once(rng, value[at], depth - 1), *value[at + 1 :]]
    if isinstance(value, str | int | float) and rng.random() < 0.6:
        return rng.choice([each for each in ODD if type(each) is type(value)])
    match value:
        case dict():
            return _spoil_table(rng, value)
        case list() | tuple():
            return _spoil_list(rng, value)
        case bool() | None:
            return rng.choice(ODD)
        case int() if rng.random() < 0.7:
            return value + rng.choice((-1, 1, 2**31, -(2**31), 2**62))
        case bytes() if rng.random() < 0.7:
            return spoil_bytes(rng, value, [value])
        case str() if value and rng.random() < 0.7:
            at = rng.randrange(len(value))
            return value[:at] + rng.choice(("", "x", "\x00", "/", "..", "é", value * 40)) + value[at + 1 :]
    return rng.choice((*ODD, [value], {"a": value}))


def _spoil_table(rng: random.Random, value: dict[Any, Any]) -> Any:
    match rng.randrange(4):
        case 0:
            return {**value, rng.choice(("surprise", "", "id", "a", "\x00")): rng.choice(ODD)}
        case 1 | 2 if value:
            gone = rng.choice(list(value))
            return {key: each for key, each in value.items() if key != gone}
        case _:
            return rng.choice((*ODD, [value], {"a": value}))


def _spoil_list(rng: random.Random, value: list[Any] | tuple[Any, ...]) -> Any:
    match rng.randrange(4):
        case 0:
            return [*value, *value, rng.choice(ODD)][: rng.choice((3, 40, 400))]
        case 1 | 2 if value:
            return list(value[: rng.randrange(len(value))])
        case _:
            return rng.choice((*ODD, [value], {"a": value}))


def encode_json(value: Any) -> bytes:
    """Return a value as JSON, infinite numbers and bytes too: they are what clients send by mistake."""
    try:
        return msgspec.json.encode(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return b"null"


def encode_msgpack(value: Any) -> bytes:
    """Return a value as MessagePack."""
    try:
        return msgspec.msgpack.encode(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return b"\xc0"


def examples(kind: Any, count: int = 12) -> list[Any]:
    """Return values of a type that msgspec knows: with few fields and with all, of each type of a union."""
    rng = random.Random(1)
    info = inspect.type_info(kind)
    return [_example(rng, info, 0, is_full=number % 3 > 0) for number in range(count)]


def _example(rng: random.Random, info: inspect.Type, depth: int, *, is_full: bool) -> Any:
    def inside(kind: inspect.Type) -> Any:
        return _example(rng, kind, depth + 1, is_full=is_full)

    match info:
        case inspect.Metadata(type=inner):
            return _example(rng, inner, depth, is_full=is_full)
        case inspect.UnionType(types=types):
            return _example(rng, rng.choice(types), depth, is_full=is_full)
        case inspect.DictType():
            count = 0 if depth > _DEEP else max(info.min_length or 0, 2)
            return {str(inside(info.key_type)): inside(info.value_type) for _ in range(count)}
        case inspect.TupleType(item_types=types):
            return [inside(each) for each in types]
        case inspect.VarTupleType() | inspect.ListType() | inspect.SetType() | inspect.FrozenSetType():
            count = max(info.min_length or 0, 0 if depth > _DEEP else rng.choice((1, 2)))
            return [inside(info.item_type) for _ in range(count)]
        case inspect.StructType():
            return _struct(rng, info, depth, is_full=is_full)
        case _:
            return _scalar(rng, info)


def _scalar(rng: random.Random, info: inspect.Type) -> Any:
    match info:
        case inspect.NoneType():
            made: Any = None
        case inspect.BoolType():
            made = rng.random() < 0.5
        case inspect.IntType():
            most = 2_000 if info.le is None else info.le
            made = max(info.ge or 0, (info.gt or -1) + 1, min(rng.choice((0, 1, 7, 2_000)), most))
        case inspect.FloatType():
            made = float(info.ge or 0) + rng.random()
        case inspect.StrType():
            made = rng.choice(("a", "a1", "t", "name-1", "wf-1", "GET")).ljust(info.min_length or 0, "x")
        case inspect.BytesType() | inspect.MemoryViewType():
            made = rng.choice((b"1", b"[1,2]", b'{"a":1}', b"x" * 32)).ljust(info.min_length or 0, b"x")
        case inspect.EnumType(cls=cls):
            made = rng.choice(list(cls)).value
        case inspect.LiteralType(values=values):
            made = rng.choice(values)
        case _:
            made = rng.choice((None, 1, "a", [1], {"a": 1}))
    return made


def _struct(rng: random.Random, info: inspect.StructType, depth: int, *, is_full: bool) -> Any:
    parts: dict[str, Any] = {}
    for field in info.fields:
        if field.required or (is_full and depth < 6) or info.array_like:
            parts[field.encode_name] = _example(rng, field.type, depth + 1, is_full=is_full and depth < 6)
    if info.array_like:
        return [*((info.tag,) if info.tag is not None else ()), *parts.values()]
    return {info.tag_field: info.tag, **parts} if info.tag_field is not None else parts

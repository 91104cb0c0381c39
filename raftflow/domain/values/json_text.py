"""Checks of JSON in bytes, with the same answer on every replica."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from raftflow.domain.limits import JSON_DEPTH_MAX

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)

_array_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any_decoder = msgspec.json.Decoder(msgspec.Raw)


def is_json(data: bytes) -> bool:
    """Tell whether these bytes are one JSON value that is not nested too deeply."""
    return _decodes(_any_decoder, data)


def is_json_array(data: bytes) -> bool:
    """Tell whether these bytes are a JSON array that is not nested too deeply."""
    return _decodes(_array_decoder, data)


def is_json_object(data: bytes) -> bool:
    """Tell whether these bytes are a JSON object that is not nested too deeply."""
    return _decodes(_object_decoder, data)


def _decodes(decoder: msgspec.json.Decoder[Any], data: bytes) -> bool:
    # The decoder gives up on deep nesting depending on how deep the caller's own stack is. That differs between
    # replicas, so the depth is bounded here first.
    if len(data) > JSON_DEPTH_MAX and _nesting(data) > JSON_DEPTH_MAX:
        return False
    try:
        if not data.isascii():
            data.decode()
        decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _nesting(data: bytes) -> int:
    """Return how deep arrays and objects nest, or an upper bound that is within the limit."""
    openings = data.count(b"[") + data.count(b"{")
    if openings <= JSON_DEPTH_MAX:
        return openings
    depth = deepest = 0
    for byte in _STRING.sub(b"", data):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest

"""What a JSON Schema may cost: an upper bound of the work for one value, without the library that does the work.

A schema of 1 KiB can hold a processor for minutes: `$ref`s that double in each of twenty levels make a million
comparisons. So the leader itself compares only where a bound says that it is quick. It knows common keywords. A
schema with any other one, or with references in a circle, has no bound.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, Final

import msgspec

from raftflow.domain.values.exact import UNREADABLE, decode_json

STEPS_MAX: Final = 1_000_000
"""Steps that the leader takes itself to compare one payload: up to 20 ns each, most take less than 1 ns."""
COMPILE_STEPS: Final = 100
"""A step costs so many when a schema is compiled."""
_DEPTH_MAX: Final = 64

_PLAIN: Final = frozenset(
    {
        "$comment",
        "$schema",
        "const",
        "default",
        "deprecated",
        "description",
        "enum",
        "examples",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "readOnly",
        "required",
        "title",
        "type",
        "writeOnly",
    }
)
"""Their work is at most the size of what is written there, for each value in the payload."""
_SCHEMA: Final = frozenset({"additionalProperties", "else", "if", "items", "not", "then"})
_SCHEMAS: Final = {"allOf": 1, "anyOf": 2, "oneOf": 2, "prefixItems": 1}
"""How often each of them is compared: once more, to say why none of them fits."""
_NAMED_SCHEMAS: Final = frozenset({"$defs", "definitions", "properties"})
_REFERENCE: Final = re.compile(r"#/(\$defs|definitions)/([A-Za-z0-9_.-]+)")
_COUNTS: Final = re.compile(r"\{(\d*)(,?)(\d*)\}")


@lru_cache(maxsize=64)
def schema_cost(schema: bytes) -> float:
    """Return how many steps a schema takes at most for each byte of a payload; infinity if there is no bound."""
    try:
        root = decode_json(schema)
    except UNREADABLE:
        return math.inf
    return _Costs(root).of(root, 0)


class _Costs:
    """The costs of a schema, each reference followed."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[tuple[str, str], float] = {}
        """Of what references name; infinity while that is looked at, so that a circle has no bound."""

    def of(self, schema: Any, depth: int) -> float:
        if depth > _DEPTH_MAX:
            return math.inf
        if not isinstance(schema, dict):
            return 1 if isinstance(schema, bool) else math.inf
        return 1 + sum(self._of_keyword(key, value, depth + 1) for key, value in schema.items())

    def _of_keyword(self, key: str, value: Any, depth: int) -> float:
        if key in _PLAIN:
            return 1 + len(msgspec.json.encode(value))
        if key in _SCHEMA:
            return self.of(value, depth)
        if key in _SCHEMAS and isinstance(value, list):
            return _SCHEMAS[key] * sum(self.of(each, depth) for each in value)
        if key in _NAMED_SCHEMAS and isinstance(value, dict):
            return sum(len(name) + self.of(each, depth) for name, each in value.items())
        if key == "pattern" and isinstance(value, str):
            return _cost_of_pattern(value)
        if key == "$ref" and isinstance(value, str):
            return self._of_reference(value, depth)
        return math.inf

    def _of_reference(self, reference: str, depth: int) -> float:
        found = _REFERENCE.fullmatch(reference)
        if found is None:
            return math.inf
        table, name = key = found.group(1), found.group(2)
        if key not in self._known:
            self._known[key] = math.inf
            named = self._root.get(table)
            self._known[key] = self.of(named.get(name), depth) if isinstance(named, dict) else math.inf
        return self._known[key]


def _cost_of_pattern(pattern: str) -> float:
    """Return the states of a pattern at most. Time is linear in them, because the library does not backtrack."""
    states = float(len(pattern))
    for least, comma, most in _COUNTS.findall(pattern):
        # Without an upper bound a repetition is a loop behind the least number.
        states *= max(int((most if comma and most else least) or 1), 1)
    return states * _UNICODE if "\\" in pattern or "." in pattern else states


_UNICODE: Final = 8
"""What a class of characters may cost more than a character."""

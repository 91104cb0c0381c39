"""JSON Schemas of signals: the leader compares payloads with them before it proposes a command.

`apply` does not do it: another version of the library may judge in another way, and the replicas would differ.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from raftflow.domain.limits import SCHEMA_BYTES_MAX, SIGNAL_FAULT_CHARS_MAX
from raftflow.domain.values.exact import UNREADABLE, decode_json

SCHEMA_TRIES: Final = 10
"""How often a payload is compared again because another wait, or another signal, came in between."""


@lru_cache(maxsize=64)
def _validator(schema: bytes) -> Any:
    # Imported here: few clusters use schemas. It reads no other documents, and its patterns take linear time.
    import jsonschema_rs  # noqa: PLC0415

    return jsonschema_rs.validator_for(
        decode_json(schema), offline=True, pattern_options=jsonschema_rs.RegexOptions(size_limit=1 << 20)
    )


def schema_problem(schema: bytes) -> str | None:
    """Say why this cannot be the schema of a signal, None if it can."""
    if len(schema) > SCHEMA_BYTES_MAX:
        return f"the schema has {len(schema)} bytes, the limit is {SCHEMA_BYTES_MAX}"
    try:
        _validator(schema)
    except Exception as error:  # noqa: BLE001 - the library raises several kinds, all about the schema
        return f"not a JSON Schema: {str(error)[:SIGNAL_FAULT_CHARS_MAX]}"
    return None


def schema_fault(schema: bytes, payload: bytes) -> str | None:
    """Say why a payload does not fit a schema, None if it does."""
    try:
        value = decode_json(payload)
    except UNREADABLE as fault:
        return f"it is not JSON: {fault}"
    import jsonschema_rs  # noqa: PLC0415 - see above

    try:
        _validator(schema).validate(value)  # makes one error, where `iter_errors` makes all before the first
    except jsonschema_rs.ValidationError as found:
        error = found
    else:
        return None
    place = "/".join(str(part) for part in error.instance_path)
    return f"{place or 'the value'}: {error.message}"[:SIGNAL_FAULT_CHARS_MAX]

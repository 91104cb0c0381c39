"""JSON documents from clients that are not trusted."""

from __future__ import annotations

from typing import Any

from raftflow.domain.contract.views import FieldProblem
from raftflow.domain.values.exact import ValueFault, read_json
from raftflow.formats.faults import DocumentError


def decode_json(data: bytes) -> Any:
    """Read a JSON document. Raises `DocumentError` with the path of an invalid value (`domain/values/exact.py`)."""
    try:
        return read_json(data)
    except ValueFault as fault:
        message = fault.message if fault.path else f"the body is not valid JSON: {fault.message}"
        raise DocumentError([FieldProblem(fault.path, message)]) from None

"""What all patches share. A patch is a context manager that puts a fault in and takes it out again."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Patch = contextlib.AbstractContextManager[object]


def attribute(owner: Any, name: str, value: Any) -> Callable[[], Patch]:
    """Return a patch that replaces an attribute by `value`."""
    return lambda: patch.object(owner, name, value)


@contextlib.contextmanager
def both(one: Patch, other: Patch) -> Iterator[None]:
    """Apply two patches."""
    with one, other:
        yield

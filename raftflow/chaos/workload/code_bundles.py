"""Code bundles of a chaos run: a module whose function adds a number, so that a result shows which code ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from raftflow.chaos.workload.tasks import MODULUS
from raftflow.domain.values.code_bundle import BundleFile, digest_of, make_bundle

_MODULE: Final = "chaos_code"
_SOURCE: Final = """from raftflow.chaos.workload import tasks


def work(salt, **more):
    return tasks.work((salt + {shift}) % {modulus}, **more)
"""


@dataclass(frozen=True, slots=True)
class WorkloadCode:
    """One bundle."""

    shift: int
    content: bytes
    digest: str

    @property
    def call(self) -> str:
        """Return the function in the bundle, as documents name it."""
        return f"{_MODULE}:work"

    def shifted(self, salt: int) -> int:
        """Return the salt that the function in the bundle works with."""
        return (salt + self.shift) % MODULUS


def make_code(shift: int) -> WorkloadCode:
    """Return a bundle whose function adds a number."""
    source = _SOURCE.format(shift=shift, modulus=MODULUS).encode()
    content = make_bundle([BundleFile(f"{_MODULE}.py", source)])
    return WorkloadCode(shift, content, digest_of(content))

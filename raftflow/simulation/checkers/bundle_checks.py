"""What must hold of code bundles.

bundle on few disks    the log named a bundle that more than half of the voters did not have on their disks
bundle missing         a replica lacks, at the end, a bundle that the log names
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.coordinator.bundles.store import FOLDER
from raftflow.domain.commands import RegisterBundle
from raftflow.domain.replies import Done
from raftflow.domain.values.code_bundle import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.replies import AnyReply
    from raftflow.simulation.checkers.member_checks import MemberModel
    from raftflow.simulation.world.host import SimHost


class BundleChecks:
    """Looks at the disks when a bundle is registered.

    Args:
        violation: told what must never happen.
        members: the model of the members.
    """

    def __init__(self, violation: Callable[[str, str], None], members: MemberModel) -> None:
        self._violation = violation
        self._members = members
        self._hosts: dict[str, SimHost] = {}

    def started(self, host: SimHost) -> None:
        """A replica serves from now on."""
        self._hosts[host.name] = host

    def learn(self, command: AnyCommand, reply: AnyReply) -> None:
        """Follow a command that is applied for the first time."""
        if not isinstance(command, RegisterBundle) or not isinstance(reply, Done):
            return
        voters = self._members.latest.voter_names
        # A disk that is out of the machine, or older than it was, may have had the bundle.
        lacking = [
            host.name
            for host in self._hosts.values()
            if host.name in voters and not (host.wiped or host.older or host.gone or _has(host, command.digest))
        ]
        if 2 * len(lacking) > len(voters):
            self._violation(
                "bundle on few disks", f"{command.digest} is registered, and {', '.join(lacking)} do not have it"
            )


def _has(host: SimHost, digest: str) -> bool:
    """Tell whether a bundle would be there after a loss of power now."""
    for path in host.disk.files():
        if path.parent.name == FOLDER and path.name == digest:
            return digest_of(host.disk.durable(path)) == digest
    return False


def missing_bundles(hosts: list[SimHost]) -> list[tuple[str, str]]:
    """Return the replicas that lack a code bundle to which the log refers, each with the bundle."""
    return [
        (host.name, bundle.digest)
        for host in hosts
        if host.replica is not None
        for bundle in host.replica.machine.tables.bundles.values()
        if not host.replica.bundles.store.has(bundle.digest)
    ]

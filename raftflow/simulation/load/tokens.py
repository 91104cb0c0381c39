"""Simulated administrators: they make, rotate and revoke tokens, and look whether each secret lets in as it should.

The tokens of an administrator are its own, so it knows of each secret whether it must be valid. What it was not
answered about is left alone.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Protocol

from raftflow.domain.commands import CreateToken, RevokeToken, RotateToken
from raftflow.domain.replies import Done
from raftflow.machine.read.identities import tokens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from raftflow.coordinator.replica import Replica
    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.replies import AnyReply

OVER_MAX: Final = 4
"""Secrets that are over, of which an administrator looks whether they stay so."""


class AskingClient(Protocol):
    """What is needed of a client."""

    async def propose(self, request_id: str, command: Callable[[Replica], AnyCommand]) -> AnyReply | None:
        """Submit a command until there is a reply."""

    async def ask(self, serve: Callable[[Replica], Awaitable[Any]]) -> Any:
        """Ask the leader; None if no answer came."""


class TokenKeeper:
    """An administrator.

    Args:
        client: sends what it asks for.
        rng: decides what it does.
        name: begins the names of its tokens.
        violation: told what must never happen.
    """

    def __init__(self, client: AskingClient, rng: Random, name: str, violation: Callable[[str, str], None]) -> None:
        self._client = client
        self._rng = rng
        self._name = name
        self._violation = violation
        self._serial = 0
        self._token = ""
        """The name of the token that it has; empty for none."""
        self._valid: bytes | None = None
        """Digest of the secret that must let in."""
        self._over: list[bytes] = []
        """Digests of secrets that must not let in any more."""

    async def act(self) -> None:
        """Make a token, rotate it, revoke it, or look."""
        self._serial += 1
        chance = self._rng.random()
        if not self._token:
            await self._create()
        elif chance < 0.35:
            await self._rotate()
        elif chance < 0.6:
            await self._revoke()
        await self._look()

    async def _create(self) -> None:
        name, digest = f"{self._name}-{self._serial}", self._digest()
        reply = await self._propose(
            lambda replica, request_id: CreateToken(
                at_ms=replica.clock.now_ms(),
                actor="client:api",
                request_id=request_id,
                name=name,
                role="read",
                digest=digest,
            )
        )
        if isinstance(reply, Done):
            self._token, self._valid = name, digest

    async def _rotate(self) -> None:
        digest, token = self._digest(), self._token
        reply = await self._propose(
            lambda replica, request_id: RotateToken(
                at_ms=replica.clock.now_ms(),
                actor="client:api",
                request_id=request_id,
                name=token,
                digest=digest,
                overlap_ms=0,
            )
        )
        if isinstance(reply, Done):
            self._end()
            self._valid = digest
        else:
            self._token, self._valid = "", None  # unknown, or refused because of what is unknown

    async def _revoke(self) -> None:
        token = self._token
        reply = await self._propose(
            lambda replica, request_id: RevokeToken(
                at_ms=replica.clock.now_ms(), actor="client:api", request_id=request_id, name=token
            )
        )
        if isinstance(reply, Done):
            self._end()
        self._token, self._valid = "", None

    def _end(self) -> None:
        if self._valid is not None:
            self._over = [*self._over, self._valid][-OVER_MAX:]

    async def _look(self) -> None:
        """Look whether the secrets let in as they should."""
        expected = dict.fromkeys(self._over, False)
        if self._valid is not None:
            expected[self._valid] = True

        async def serve(replica: Replica) -> list[bool]:
            await replica.read_barrier()
            now_ms = replica.clock.now_ms()
            return [tokens.find_valid(replica.machine, digest, now_ms) is not None for digest in expected]

        found = await self._client.ask(serve)
        if found is not None and found != list(expected.values()):
            self._violation("token", f"{self._name}: secrets are valid: {found}, not {list(expected.values())}")

    async def _propose(self, command: Callable[[Replica, str], AnyCommand]) -> AnyReply | None:
        request_id = f"{self._name}-token-{self._serial}"
        return await self._client.propose(request_id, lambda replica: command(replica, request_id))

    def _digest(self) -> bytes:
        return sha256(f"{self._name} {self._serial}".encode()).digest()

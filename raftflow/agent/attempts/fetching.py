"""What an attempt needs before it can start: its code, and inputs that did not come with the assignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from raftflow.agent.workdir.code import CodeFolder
    from raftflow.agent.workdir.inputs import FetchedInputs, InputsFetcher
    from raftflow.domain.contract.views import Assignment


class CodeKeeper(Protocol):
    """Keeps the code of attempts (`agent.workdir.code.CodeCache`)."""

    def take_ready(self, digest: str) -> CodeFolder | None:
        """Return the folder of a bundle for one more attempt, if it is there and cheap to check; None otherwise."""

    async def take(self, digest: str) -> CodeFolder:
        """Return the folder of a bundle for one more attempt. Raises `InputsError`."""

    def give_back(self, folder: CodeFolder) -> None:
        """Note that an attempt no longer runs with a folder."""


class FetchedFiles(NamedTuple):
    """What was fetched for one attempt."""

    inputs: FetchedInputs | None = None
    code: CodeFolder | None = None
    keeper: CodeKeeper | None = None
    """Takes the code back."""

    @property
    def code_path(self) -> str:
        """Folder of its code, empty for none."""
        return "" if self.code is None else self.code.path

    def remove(self) -> None:
        """Give everything back when the attempt has ended."""
        if self.inputs is not None:
            self.inputs.remove()
        if self.code is not None and self.keeper is not None:
            self.keeper.give_back(self.code)


class AttemptFetcher:
    """Fetches what attempts need."""

    def __init__(self, inputs: InputsFetcher, code: CodeKeeper) -> None:
        self._inputs = inputs
        self._code = code

    def at_once(self, assignment: Assignment) -> FetchedFiles | None:
        """Return what an attempt needs if nothing must be fetched for it, None otherwise."""
        if assignment.inputs_apart is not None:
            return None
        if not assignment.code:
            return FetchedFiles()
        code = self._code.take_ready(assignment.code)
        return None if code is None else FetchedFiles(None, code, self._code)

    async def fetch(self, assignment: Assignment) -> FetchedFiles:
        """Fetch what an attempt needs. Raises `InputsError`. Being cancelled leaves nothing behind."""
        code = await self._code.take(assignment.code) if assignment.code else None
        try:
            inputs = None if assignment.inputs_apart is None else await self._inputs.fetch(assignment)
        except BaseException:
            if code is not None:
                self._code.give_back(code)
            raise
        return FetchedFiles(inputs, code, self._code)

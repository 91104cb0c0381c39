"""With `own_folder` a task without `cwd` begins in an empty folder of its own, which is gone after it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

LOOK = "import json, os; print(json.dumps([os.getcwd(), sorted(os.listdir())])); open('left', 'w'); os.mkdir('more')"


async def look(leader: Any, kind: str, **task: Any) -> tuple[str, list[str]]:
    """Run a task that tells where it begins and what it finds there, and leaves something."""
    if kind == "command":
        end = await leader.run(command=["python3", "-S", "-c", LOOK], **task)
    else:
        end = await leader.run(python="builtins:exec", args=[LOOK, {}], **task)
    assert end.outcome == "succeeded", end.error
    folder, found = json.loads((await leader.log_of(end.fence, "stdout")).data)
    return folder, [name for name in found if name not in ("inputs.json", "calls.sock")]


@pytest.mark.parametrize("kind", ["command", "python"])
async def test_each_attempt_begins_in_an_empty_folder(
    leader: Any, start_agent: Any, tmp_path: Path, kind: str
) -> None:
    start_agent(resources={"cpu": 1}, own_folder=True)
    seen = [await look(leader, kind) for _ in range(3)]
    assert [found for _, found in seen] == [[]] * 3
    folders = {folder for folder, _ in seen}
    assert len(folders) == 3
    assert Path.cwd() not in map(Path, folders)
    assert [folder for folder in folders if os.path.exists(folder)] == []  # noqa: ASYNC240, PTH110
    own = tmp_path / "own"
    own.mkdir()
    assert await look(leader, kind, cwd=str(own)) == (str(own), [])
    assert sorted(os.listdir(own)) == ["left", "more"]


@pytest.mark.parametrize("kind", ["command", "python"])
async def test_without_it_tasks_begin_where_the_agent_was_started(
    leader: Any, start_agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    start_agent(resources={"cpu": 1})
    assert (await look(leader, kind))[0] == str(tmp_path)


async def test_the_folder_of_a_call_that_fails_or_loses_its_worker_is_removed_too(
    leader: Any, start_agent: Any
) -> None:
    start_agent(resources={"cpu": 1}, own_folder=True)
    for end in ("1/0", "os._exit(3)"):
        code = f"import os, sys; print(os.getcwd(), flush=True); {end}"
        ended = await leader.run(python="builtins:exec", args=[code, {}])
        assert ended.outcome == "failed"
        folder = (await leader.log_of(ended.fence, "stdout")).data.decode().strip()
        assert folder
        assert not os.path.exists(folder)  # noqa: ASYNC240, PTH110

"""Help texts are whole, say things once, and shells complete commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import Result

from raftflow.cli.local_commands.help import TOPICS
from raftflow.cli.main import root
from raftflow.cli.terminal.exits import MEANING
from raftflow.cli.terminal.options import CONNECTION_OPTIONS, ConnectionOption

Run = Callable[..., Result]


def commands(
    command: click.Command = root, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name="raftflow")
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))


def test_help_of_every_command_is_whole(run: Run) -> None:
    for path, command in commands():
        shown = run(*path, "--help").stdout
        assert command.help, path
        assert not re.search(r"[a-z]\.\.\.$", shown, re.MULTILINE), (path, "a line was cut")
        assert "\\b" not in shown, (path, "a mark for click is shown")
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, (path, option.opts)
        connects = sum(isinstance(option, ConnectionOption) for option in command.params)
        assert " ".join(shown.split()).count("raftflow help connecting") == (1 if connects else 0), path
        if connects:
            assert "--cacert" not in shown
        assert run("help", *path).stdout.startswith("Usage: raftflow")


def test_connection_options_are_explained_once(run: Run) -> None:
    told = " ".join(run("help", "connecting").stdout.split())
    for option in CONNECTION_OPTIONS:
        assert option.opts[0] in told
        assert " ".join((option.help or "").split()) in told
    assert "[client]" in told


def test_exit_codes_are_told_in_help_and_in_the_readme(run: Run) -> None:
    told = run("help", "exit-codes").stdout
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for code, (word, _) in MEANING.items():
        assert re.search(rf"^ +{code}  {word}", told, re.MULTILINE)
        assert re.search(rf"^\| {code} \|.*{word if code else ''}", readme, re.MULTILINE)


@pytest.mark.parametrize("width", ["40", "80", "200"])
def test_topics_fit_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    for topic in TOPICS:
        shown = run("help", topic).stdout
        assert len(shown) > 200
        assert "\b" not in shown
        wide = [line for line in shown.splitlines() if len(line) > max(int(width), 80)]
        assert wide == []
        assert topic in run("help").stdout


def test_the_document_of_the_help_is_right(run: Run) -> None:
    lines = run("help", "document").stdout.split("same keys:\n")[1].split("`raftflow workflow")[0]
    text = "\n".join(line.removeprefix("  ") for line in lines.splitlines())
    assert run("workflow", "validate", "-", stdin=text).exit_code == 0


TYPOS = [
    (("wokflow", "list"), "Did you mean 'workflow'?"),
    (("workflow", "lits"), "Did you mean 'list'?"),
    (("validate", "x"), "Did you mean `workflow validate`?"),
    (("resume", "x"), "Did you mean `agent resume` or `workflow resume`?"),
    (("xyzzy",), "There are: demo, cluster,"),
    (("workflow", "list", "--pers", "x"), "Did you mean '--peers'?"),
    (("workflow", "list", "-o", "jsn"), "is not one of 'table', 'json', 'jsonl'"),
    (("help", "conecting"), "Topics: connecting,"),
    (("help", "workflow", "lits"), "Did you mean 'list'?"),
    (("completion", "csh"), "is not one of 'bash', 'zsh', 'fish'"),
]


@pytest.mark.parametrize(("words", "said"), TYPOS, ids=[" ".join(row[0]) for row in TYPOS])
def test_a_slip_of_the_finger_is_answered_with_what_may_be_meant(run: Run, words: tuple[str, ...], said: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_no_command_at_all_shows_the_help(run: Run) -> None:
    for words in ((), ("workflow",)):
        result = run(*words)
        assert result.exit_code == 2
        assert result.stderr.startswith("Usage: raftflow")
        assert result.stdout == ""


COMPLETIONS = [
    ("raftflow wor", "workflow"),
    ("raftflow workflow val", "validate"),
    ("raftflow workflow list -o j", "json jsonl"),
    ("raftflow workflow list --pe", "--peers"),
    ("raftflow help exit", "exit-codes"),
    ("raftflow completion z", "zsh"),
]


@pytest.fixture
def tool(tmp_path: Path) -> dict[str, str]:
    """An environment in which `raftflow` is a program."""
    program = tmp_path / "raftflow"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m raftflow "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def test_bash_completes(tool: dict[str, str]) -> None:
    asked = "\n".join(
        f"COMP_WORDS=({line}); COMP_CWORD={len(line.split()) - 1}; COMPREPLY=(); _raftflow_completion raftflow; "
        'echo "${COMPREPLY[*]}"'
        for line, _ in COMPLETIONS
    )
    script = f'eval "$(raftflow completion bash)"\ncomplete -p raftflow\n{asked}'
    argv = ["bash", "--norc", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, env=tool, timeout=60, check=True)
    first, *found = done.stdout.splitlines()
    assert first == "complete -o nosort -F _raftflow_completion raftflow"
    assert found == [expected for _, expected in COMPLETIONS]
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_that_they_can_read(run: Run, tool: dict[str, str], shell: str) -> None:
    script = run("completion", shell).stdout
    assert f"_RAFTFLOW_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n", "/dev/stdin"], input=script, text=True, timeout=60, check=True)
    asked = {"COMP_WORDS": "raftflow wor", "COMP_CWORD": "1" if shell == "zsh" else "wor"}
    environment = {**tool, "_RAFTFLOW_COMPLETE": f"{shell}_complete", **asked}
    done = subprocess.run(["raftflow"], capture_output=True, text=True, env=environment, timeout=60, check=True)
    assert "workflow" in done.stdout

"""The registry of policies is the only list: the documentation, the command line and the transcripts follow it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from raftflow.cli.main import root
from raftflow.scheduler.policies import DEFAULT_POLICY, PLACEMENT_RULES, POLICIES

README = Path(__file__).parents[2] / "raftflow" / "scheduler" / "README.md"


def rows(policy: str) -> list[str]:
    """Return what the tables of the README say of a policy."""
    begin = f"| `{policy}` | "
    return [
        line.removeprefix(begin).removesuffix(" |")
        for line in README.read_text().splitlines()
        if line.startswith(begin)
    ]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_registered_policy_is_in_the_tables_of_the_readme(policy):
    assert rows(policy.name)[:2] == [text for text in (policy.weighs, policy.help) if text is not None]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_policy_that_places_tasks_says_what_it_weighs(policy):
    assert (policy.placement is None) == (policy.weighs is None)


def test_the_default_policy_places_tasks():
    assert DEFAULT_POLICY in PLACEMENT_RULES


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_the_help_of_the_command_line_explains_a_registered_policy(policy):
    printed = " ".join(CliRunner().invoke(root, ["help", "policies"]).output.split())
    assert f"{policy.name} {policy.help}" in printed


@pytest.mark.parametrize(
    ("command", "names"), [(("workflow", "plan"), POLICIES), (("simulate", "trace"), PLACEMENT_RULES)]
)
def test_the_commands_offer_the_registered_policies(command, names):
    printed = "".join(CliRunner().invoke(root, [*command, "--help"]).output.split())
    assert f"[{'|'.join(names)}]" in printed

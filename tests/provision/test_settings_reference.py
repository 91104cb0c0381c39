"""The reference of settings is what the declarations say, and no setting can be declared without help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from raftflow.agent.config import SETTINGS as AGENT_SETTINGS
from raftflow.coordinator.config.replica_config import SECTIONS
from raftflow.provision.reference import help_comments, render_reference
from raftflow.settings import declared_settings, setting

PAGE = Path(__file__).parents[2] / "cluster-configs" / "SETTINGS.md"
ALL = [declared for settings in (*SECTIONS.values(), AGENT_SETTINGS) for declared in settings.values()]


def test_the_reference_page_is_what_the_declarations_say(*, regenerate_transcripts: bool) -> None:
    if regenerate_transcripts:
        PAGE.write_text(render_reference())
    assert PAGE.read_text() == render_reference(), (
        "a setting changed; run pytest tests/provision --regenerate-transcripts"
    )


@pytest.mark.parametrize("declared", ALL, ids=lambda declared: declared.name)
def test_every_setting_has_help_in_sentences_and_a_default_within_its_bounds(declared: object) -> None:
    assert declared.help[0].isupper() and declared.help.endswith((".", ")."))  # type: ignore[attr-defined]
    default = declared.default  # type: ignore[attr-defined]
    if isinstance(default, int | float) and not isinstance(default, bool):
        low, high = declared.minimum, declared.maximum  # type: ignore[attr-defined]
        assert (low is None or low <= default) and (high is None or default <= high)


def test_a_field_without_a_declaration_is_refused() -> None:
    class Bare(msgspec.Struct):
        port: int = 1

    with pytest.raises(TypeError, match=r"Bare\.port is not declared with setting"):
        declared_settings(Bare, "bare")


def test_a_declaration_holds_key_type_default_and_bounds() -> None:
    class Sample(msgspec.Struct):
        wait_ms: Annotated[int | None, setting("How long to wait.", 1, 9, key="wait")] = None

    declared = declared_settings(Sample, "sample")["wait"]
    assert (declared.name, declared.field, declared.type) == ("sample.wait", "wait_ms", int)
    assert (declared.default, declared.minimum, declared.maximum) == (None, 1, 9)


def test_comments_in_templates_fit_their_lines() -> None:
    lines = [line for text in help_comments().values() for line in text.splitlines()]
    assert max(map(len, lines)) <= 118

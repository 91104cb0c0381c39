"""What the declarations of settings say, as comments in configuration files and as a page."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

import msgspec

from raftflow.agent.config import SETTINGS as AGENT_SETTINGS
from raftflow.coordinator.config.replica_config import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from raftflow.settings import DeclaredSetting

_LINE_CHARS: Final = 118
_TYPES: Final = {"int": "whole number", "float": "number", "bool": "true or false", "str": "string", "Path": "path"}
_HEAD: Final = """\
# Settings

Every setting of a replica and of an agent. This page is written from their declarations:
`pytest tests/provision --regenerate-transcripts` writes it again.

A flag counts more than the environment, the environment more than the file, and the file more than the default.
Every setting of a replica has the variable `RAFTFLOW_<TABLE>_<KEY>` and the flag `--set TABLE.KEY=VALUE`. An agent's
settings have the variables in the table. Relative paths in a replica's file begin at the folder of the file.
"""


def help_comments() -> dict[str, str]:
    """Return the texts for templates: `help_SECTION_KEY` as lines of comment, `default_SECTION_KEY` as a value."""
    texts: dict[str, str] = {}
    for declared in _all_settings():
        name = f"{declared.section}_{declared.key}"
        texts[f"help_{name}"] = "\n".join(f"# {line}" for line in textwrap.wrap(declared.help, _LINE_CHARS - 2))
        texts[f"default_{name}"] = str(declared.default)
    return texts


def render_reference() -> str:
    """Return the page with every setting."""
    parts = [_HEAD]
    for section, settings in {**SECTIONS, "agent": AGENT_SETTINGS}.items():
        parts.append(f"\n## [{section}]\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n")
        parts.extend(_row(declared) for declared in settings.values())
    return "".join(parts)


def _all_settings() -> Iterable[DeclaredSetting]:
    for settings in (*SECTIONS.values(), AGENT_SETTINGS):
        yield from settings.values()


def _row(declared: DeclaredSetting) -> str:
    notes = [declared.help.replace("|", "\\|")]
    if declared.variable:
        notes.append(f"Variable: `{declared.variable}`.")
    if not declared.in_file:
        notes.append("Not in the file.")
    return f"| `{declared.key}` | {_value(declared)} | {_default(declared)} | {' '.join(notes)} |\n"


def _value(declared: DeclaredSetting) -> str:
    """Return the kind of value and its bounds."""
    kind = declared.kind or _TYPES.get(getattr(declared.type, "__name__", ""), "")
    if not kind:
        text = str(declared.type)
        kind = "list" if text.startswith("tuple") else "table" if text.startswith("dict") else "host:port"
    low, high = declared.minimum, declared.maximum
    if low is not None and high is not None:
        return f"{kind}, {low} to {high}"
    if low is not None:
        return f"{kind}, at least {low}"
    return kind if high is None else f"{kind}, at most {high}"


def _default(declared: DeclaredSetting) -> str:
    if declared.default_text:
        return declared.default_text
    if declared.default is msgspec.NODEFAULT:
        return "required"
    if declared.default in (None, "", (), {}):
        return "none"
    return str(declared.default).lower()

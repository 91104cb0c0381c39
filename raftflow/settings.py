"""How settings are declared: type, default, bounds, unit and help are written once, at the field of a struct.

    class Timing(msgspec.Struct):
        lease_ms: Annotated[int, setting("An agent that is silent for this time is lost.", 300, DAY_MS)] = 10_000

`declared_settings` returns the declarations of such a struct. Parsing, environment variables, error messages, the
comments in the files of `raftflow config init` and the reference (`cluster-configs/SETTINGS.md`) come from them. A
replica's settings are in `coordinator/config/replica_config.py`, an agent's in `agent/config.py`.
"""

from __future__ import annotations

import types
import typing
from typing import Any, NamedTuple

import msgspec

_EXTRA = "setting"


class _Extra(NamedTuple):
    key: str
    variable: str
    default: str
    in_file: bool
    kind: str


class DeclaredSetting(NamedTuple):
    """One setting, as its struct declares it."""

    section: str
    """The table of the configuration file."""
    key: str
    """Its name in that table."""
    field: str
    """Its name in the struct."""
    type: Any
    """The type of its value, without None."""
    default: Any
    """The value if nothing is set; `msgspec.NODEFAULT` if it must be set or is found out when the program starts."""
    default_text: str
    """The default in words, if the value itself says too little."""
    minimum: float | None
    maximum: float | None
    help: str
    variable: str
    """An environment variable of its own, empty if it has none."""
    in_file: bool
    """False for secrets, which must not be in the file."""
    kind: str
    """How its value is written, if its type does not say it: `duration`, `log store`."""

    @property
    def name(self) -> str:
        """Return `section.key`."""
        return f"{self.section}.{self.key}"


def setting(
    help_text: str,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    key: str = "",
    variable: str = "",
    default: str = "",
    in_file: bool = True,
    kind: str = "",
) -> msgspec.Meta:
    """Declare a setting, as metadata of an annotated field.

    Args:
        help_text: what it means, in full sentences.
        minimum: the smallest value, if it is a number.
        maximum: the largest value.
        key: its name in the file, if that is not the field's name.
        variable: an environment variable of its own.
        default: the default in words, if the value itself says too little.
        in_file: False if it must not be in the file.
        kind: how its value is written, if its type does not say it.
    """
    extra = {_EXTRA: _Extra(key, variable, default, in_file, kind)}
    return msgspec.Meta(description=help_text, ge=minimum, le=maximum, extra=extra)


def declared_settings(struct: type[msgspec.Struct], section: str) -> dict[str, DeclaredSetting]:
    """Return the settings of a struct by their keys, in the order in which they are declared.

    Raises `TypeError` for a field without a `setting`.
    """
    hints = typing.get_type_hints(struct, include_extras=True)
    found: dict[str, DeclaredSetting] = {}
    for field in msgspec.structs.fields(struct):
        hint = hints[field.name]
        metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
        meta = next((meta for meta in metas if meta.extra and _EXTRA in meta.extra), None)
        if meta is None or meta.extra is None or not meta.description:
            raise TypeError(f"{struct.__name__}.{field.name} is not declared with setting(...)")
        extra: _Extra = meta.extra[_EXTRA]
        key = extra.key or field.name
        found[key] = DeclaredSetting(
            section=section,
            key=key,
            field=field.name,
            type=_without_none(hint.__origin__),
            default={} if field.default_factory is dict else field.default,
            default_text=extra.default,
            minimum=next((each.ge for each in metas if each.ge is not None), None),
            maximum=next((each.le for each in metas if each.le is not None), None),
            help=meta.description,
            variable=extra.variable,
            in_file=extra.in_file,
            kind=extra.kind,
        )
    return found


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        (hint,) = [each for each in typing.get_args(hint) if each is not types.NoneType] or [hint]
    return hint

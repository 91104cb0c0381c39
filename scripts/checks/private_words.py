#!/usr/bin/env python3
"""No word of raftflow's old private language is in a name, a file name or in prose: the field's words are used.

Each word has a pattern for names (whole identifiers and file names without their ending), a pattern for prose
(docstrings, comments and pages, any case) unless it is an everyday word there, and the field's word.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sources import ROOT, explain_if_asked, listed, prose, report


class Word(NamedTuple):
    """A private word: how names and prose would show it, and what is said instead."""

    names: str
    prose: str
    better: str


def part(word: str) -> str:
    """Return a pattern of names with this word as one of the parts: `seat_of`, `_Seat`, `AgentSeat`, `SEATS_MAX`."""
    capital = word[0].upper() + word[1:]
    return rf"(?:.*_)?(?:{word}|{word.upper()})(?:_.*)?|(?:.*[a-z0-9_])?{capital}(?:[A-Z0-9_].*)?"


FILE = "file "
"""Begins the pattern of a word that is private as the name of a file only."""

WORDS = {
    "errand": Word(part("errands?"), r"\berrands?\b", "coalesced task"),
    "seat": Word(part("seats?"), r"\bseats?\b", "agent session"),
    "holding": Word(FILE + "holding", "", "long polls"),
    "Holding": Word(r"Holding|HeldPolls?", "", "long polls; reserved resources"),
    "doorman": Word(part("doorman"), r"\bdoorman\b", "admission control"),
    "doorway": Word(part("doorways?"), r"\bdoorways?\b", "gated connection"),
    "turnstile": Word(part("turnstiles?"), r"\bturnstiles?\b", "load shedder"),
    "line": Word(r"Line", "", "queue class"),
    "express": Word(part("express"), r"\bexpress lanes?\b", "fast path"),
    "calm": Word(part("calm"), r"\bcalm\b", "mass-loss throttle"),
    "standing": Word(r"_?[sS]tanding", "", "agent status; membership"),
    "outlook": Word(part("outlooks?"), r"\boutlook\b", "agent stats"),
    "foresight": Word(part("foresight"), r"\bforesight\b", "speculative placement"),
    "wish": Word(part("wish(?:es)?"), r"\bwish(?:es)?\b", "placement preferences; request"),
    "rooms": Word(FILE + "rooms", "", "feasibility"),
    "Step": Word(r"Step", "", "apply context"),
    "flow": Word(FILE + "flow", "", "stopping"),
    "void fence": Word(r"(?i:.*void_?fences?.*)", r"\bvoid fences?\b", "revoked fence"),
    "drama": Word(part("dramas?"), r"\bdramas?\b", "scenarios"),
    "stage": Word(FILE + "stage", "", "actions"),
    "plants": Word(part("plants"), r"\bplants\b", "patches; planted faults"),
    "pursuit": Word(part("pursuits?"), r"\bpursuit\b", "commit exposure"),
    "weather": Word(part("weather"), r"\bweather\b", "delays"),
    "graves": Word(part("graves?"), r"\bgraves?\b", "dead processes"),
    "books": Word(part("books"), r"\bbooks\b", "ledger and audit commands"),
    "reuse": Word(FILE + "reuse", "", "cache routes"),
    "crew": Word(part("crew"), r"\bcrews?\b", "workers"),
    "assault": Word(part("assaults?"), r"\bassaults?\b", "hostile load"),
    "MOST": Word(r"(?:.*_)?(?:MOST|LEAST)", "", "a name that ends in _MAX or _MIN"),
    "go on": Word(r"_?go_on", "", "continue_poll: a verb with its object"),
    "may": Word(r"_?may", "", "is_authorized: a verb with its object"),
    "take": Word(r"_take", "", "ingest_poll: a verb with its object"),
    "stands": Word(r"_?stands", "", "public_state"),
    "become": Word(r"_?become", "", "install"),
    "let go": Word(r"_?let_go", "", "release_claim"),
    "hurry": Word(r"_?hurry(?:_.*)?", "", "stop_now"),
}


class Patterns:
    """All words at once: one pattern for identifiers, one for names of files, one for prose."""

    def __init__(self) -> None:
        self.words = list(WORDS.items())
        names = [word.names.removeprefix(FILE) for _, word in self.words]
        only_files = [word.names.startswith(FILE) for _, word in self.words]
        self.file = self._joined(names)
        self.name = self._joined("(?!)" if only else name for name, only in zip(names, only_files, strict=True))
        self.prose = self._joined((word.prose or "(?!)" for _, word in self.words), re.IGNORECASE)

    @staticmethod
    def _joined(patterns: Iterable[str], flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
        return re.compile("|".join(f"({pattern})" for pattern in patterns), flags)

    def may_match(self, content: str) -> bool:
        """Tell quickly whether a text in lower case could contain a word of the prose."""
        return any(key in content for key, word in self.words if word.prose)

    def advice(self, match: re.Match[str]) -> str:
        """Return which word was found, and what is said instead."""
        key, word = self.words[(match.lastindex or 1) - 1]
        return f"{match[0]} is private ({key}); say: {word.better}"


def named(content: str, name: re.Pattern[str], known: dict[str, re.Match[str] | None]) -> Iterator[tuple[int, str]]:
    """Yield line and name of the identifiers of a module that match; `known` remembers names of other modules."""
    for identifier in set(re.findall(r"[^\W\d]\w*", content)) - known.keys():
        known[identifier] = name.fullmatch(identifier)
    if any(known[identifier] for identifier in set(re.findall(r"[^\W\d]\w*", content))):
        for token in tokenize.generate_tokens(io.StringIO(content).readline):
            if token.type == tokenize.NAME and known[token.string]:
                yield token.start[0], token.string


def faults(root: Path) -> Iterator[str]:
    """Yield each private word in the tree, with what is said instead."""
    patterns = Patterns()
    known: dict[str, re.Match[str] | None] = {}
    for file in listed(root, "raftflow/*", "tests/*.py", "scripts/*", "*.md"):
        if file.startswith("scripts/checks/"):
            continue
        stem = PurePosixPath(file).name.split(".")[0]
        if match := patterns.file.fullmatch(stem.removeprefix("test_")):
            yield f"{file}: {patterns.advice(match)}"
        if not file.endswith((".py", ".md")):
            continue
        content = (root / file).read_text(encoding="utf-8")
        if file.endswith(".py"):
            for line, name in named(content, patterns.name, known):
                yield f"{file}:{line}: {patterns.advice(known[name])}"
        if patterns.may_match(content.lower()):
            for line, text in prose(root, file):
                for match in patterns.prose.finditer(text):
                    yield f"{file}:{line + text.count(chr(10), 0, match.start())}: {patterns.advice(match)}"


if __name__ == "__main__":
    explain_if_asked(__doc__)
    sys.exit(report(faults(ROOT)))

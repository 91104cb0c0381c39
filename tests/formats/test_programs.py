"""Every type of program can be named in a document, and the page of documents has all of its keys."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import raftflow.formats
from raftflow.domain.tasks.program import Program
from raftflow.formats.readers.programs import PROGRAM_READERS, PROGRAMS

PAGE = (Path(raftflow.formats.__file__).parent / "DOCUMENT.md").read_text(encoding="utf-8")


def test_every_type_of_program_has_a_key_in_documents():
    assert [keys.key for keys in PROGRAMS] == [program.__struct_config__.tag for program in get_args(Program)]


def test_the_page_of_documents_has_every_key_of_a_program():
    assert [key for key in PROGRAM_READERS if f"\n| `{key}`" not in PAGE and f", `{key}`" not in PAGE] == []

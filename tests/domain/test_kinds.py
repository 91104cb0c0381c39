"""What a task's kind is when it names none."""

from __future__ import annotations

import pytest

from raftflow.domain.kinds import kind_of


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("sort -n /data/x", "sort"),
        ("/usr/bin/sort", "sort"),
        ("python3 /srv/train.py --epochs 3", "train.py"),
        ("python3.12 -X dev -u train.py", "train.py"),
        ("python3 -m package.train --x", "package.train"),
        ("python3 -c print(1) x", "python3"),
        ("perl -ne print", "perl"),
        ("bash -e run.sh", "run.sh"),
        ("bash -lc true", "bash"),
        ("env A=1 B=2 python3 x.py", "x.py"),
        ("/usr/bin/env -i sort", "sort"),
        ("sh -x", "sh"),
        ("sh dir/", "sh"),
        ("x" * 300, "x" * 200),
        (" ".join(["python3", *["-v"] * 30, "late.py"]), "python3"),
    ],
)
def test_the_name_of_what_runs(command, kind):
    assert kind_of("", None, tuple(command.split())) == kind


def test_what_is_named_goes_first():
    assert kind_of("fit", "a.b:c", None) == "fit"
    assert kind_of("", "a.b:c", None) == "a.b:c"
    assert kind_of("", None, None) == ""

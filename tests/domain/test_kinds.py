"""What a task's kind is when it names none."""

from __future__ import annotations

import pytest

from raftflow.domain.tasks.program import CommandLine, PythonCall, kind_of


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("sort -n /data/x", "sort"),
        ("/usr/bin/sort", "sort"),
        ("python3 /srv/train.py --epochs 3", "train.py"),
        ("python3.12 -X dev -Wignore -u train.py", "train.py"),
        ("python3 -I -- train.py", "train.py"),
        ("python3 -m package.train --x", "python3 -m package.train"),
        ("python3 -umpackage.train", "python3 -m package.train"),
        ("bash -e run.sh", "run.sh"),
        ("bash +x -o pipefail --rcfile none run.sh -c", "run.sh"),
        ("sh dir/", "dir"),
        ("env A=1 B=2 python3 x.py", "x.py"),
        ("/usr/bin/env -i -u HOME sort", "sort"),
        ("env", "env"),
        ("nice -n 5 timeout -k 1 --signal INT 10 align -x", "align"),
        ("taskset -c 0-3 stdbuf -oL flock /tmp/lock node -r dotenv --max-old-space-size=99 a.js", "a.js"),
        ("perl -I lib -w tidy.pl", "tidy.pl"),
        ("ruby -Ilib -r set x.rb", "x.rb"),
        ("php -d a=b -f x.php", "x.php"),
        ("java -Xmx1g -cp a:b com.example.Main", "com.example.Main"),
        ("java -Dx=y -jar /srv/app.jar z", "app.jar"),
        ("java -p mods -m app/x.Main", "java -m app/x.Main"),
        ("awk -F: -f sum.awk data", "sum.awk"),
        ("R --no-save --file=fit.R", "fit.R"),
        ("Rscript --vanilla fit.R", "fit.R"),
        ("x" * 300, "x" * 200),
    ],
)
def test_the_name_of_what_runs(command, kind):
    assert kind_of("", CommandLine(tuple(command.split()))) == kind


@pytest.mark.parametrize(
    "command",
    [
        "python3 -c print(1) x",
        "python3 -cprint(1)",
        "python3 -Ic pass",
        "python3",
        "python3 -",
        "python3 -m",
        "python3 -W",
        "perl -ne print",
        "node --eval 1",
        "node --print=1",
        "ruby -e 1 x.rb",
        "java -jar",
        "bash -lc true",
        "sh -x",
        "bash -s run.sh",
        "awk {print} data",
        "R CMD BATCH x.R",
        "env -S python3 x.py",
        "nice timeout 10 sh -c true",
        "ssh host align",
        "docker run image align",
        "env env env env env env sort",
        " ".join(["python3", *["-v"] * 40, "late.py"]),
    ],
)
def test_code_without_a_name_has_no_kind(command):
    assert kind_of("", CommandLine(tuple(command.split()))) is None


def test_what_is_named_goes_first():
    assert kind_of("fit", PythonCall("a.b:c")) == "fit"
    assert kind_of("", PythonCall("a.b:c")) == "a.b:c"
    assert kind_of("fit", CommandLine(("sh", "-c", "true"))) == "fit"
    assert kind_of("", CommandLine(())) is None

"""Documents of other systems are told apart, and the answer says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftflow.formats.documents import normalize
from raftflow.formats.faults import DocumentError
from raftflow.formats.files import FormatError, load, loads
from raftflow.formats.foreign.other_systems import kind_of

# name of the file, what is in it, what the answer calls it, a field that the answer names
FOREIGN = [
    (
        "argo.yaml",
        "apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nmetadata: {generateName: x-}\nspec:\n  entrypoint: main\n",
        "Argo Workflows",
        "`dependencies`",
    ),
    (
        "argo.json",
        '{"apiVersion": "argoproj.io/v1alpha1", "kind": "CronWorkflow", "spec": {}}',
        "Argo Workflows",
        "`dependencies`",
    ),
    ("job.yaml", "apiVersion: batch/v1\nkind: Job\nspec: {template: {}}\n", "a Kubernetes object", "`backoffLimit`"),
    (
        "pipe.yaml",
        "apiVersion: tekton.dev/v1\nkind: Pipeline\nspec: {tasks: []}\n",
        "Tekton pipeline",
        "`runAfter`",
    ),
    (
        "job.nomad",
        'variable "v" {\n  default = 1\n}\n\njob "docs" {\n  datacenters = ["dc1"]\n  group "g" {}\n}\n',
        "a Nomad job",
        "`config.command`",
    ),
    ("job.hcl", '# a comment\njob "docs" {\n  type = "batch"\n}\n', "a Nomad job", "`restart.attempts`"),
    ("job.json", '{"Job": {"ID": "x", "TaskGroups": [{"Name": "g", "Tasks": []}]}}', "a Nomad job", "`config.args`"),
    ("hcl.json", '{"job": {"docs": {"datacenters": ["dc1"], "group": {}}}}', "a Nomad job", "`constraint`"),
    (
        "ci.yml",
        "name: CI\non: [push]\njobs:\n  build:\n    runs-on: ubuntu-latest\n    steps:\n    - run: make\n",
        "a GitHub Actions workflow",
        "`runs-on`",
    ),
    (
        "reuse.yml",
        "on: push\njobs:\n  a:\n    uses: ./x.yml\n",
        "a GitHub Actions workflow",
        "`uses`",
    ),
    (".gitlab-ci.yml", "stages: [a]\nbuild:\n  stage: a\n  script: [make]\n", "a GitLab CI pipeline", "`script`"),
    (
        "pegasus.yml",
        'x-pegasus: {apiLang: python}\npegasus: "5.0"\nname: p\njobs:\n- {type: job, name: f, id: ID1}\n',
        "a Pegasus workflow",
        "`jobDependencies`",
    ),
    (
        "flow.dax",
        '<?xml version="1.0" encoding="UTF-8"?>\n<!-- made -->\n<adag xmlns="http://pegasus.isi.edu/DAX" name="x">\n',
        "a Pegasus DAX",
        "`<child ref>`",
    ),
    ("flow.xml", "<adag>\n</adag>\n", "a Pegasus DAX", "`<argument>`"),
    (
        "compose.yaml",
        "services:\n  db:\n    image: postgres\n  web:\n    build: .\n    depends_on: [db]\n",
        "a docker compose file",
        "`depends_on`",
    ),
    ("tool.cwl", "cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: echo\n", "a CWL", "`baseCommand`"),
    ("tool.json", '{"cwlVersion": "v1.0", "class": "Workflow", "steps": {}}', "a CWL", "`ResourceRequirement`"),
    ("state.json", '{"StartAt": "A", "States": {"A": {"Type": "Task"}}}', "an AWS Step Functions", "`Next`"),
    ("Taskfile.yml", "version: '3'\ntasks:\n  build:\n    cmds: [make]\n", "a Taskfile", "`cmds`"),
    ("hq.toml", '[[task]]\nid = 1\ncommand = ["true"]\n', "a HyperQueue job", "`deps`"),
    ("Snakefile", 'rule all:\n    input: "x"\n', "a Snakemake file", "`shell`"),
    (
        "main.nf",
        "nextflow.enable.dsl=2\nprocess FOO {\n  script:\n  'true'\n}\n",
        "a Nextflow",
        "`maxRetries`",
    ),
    ("flow.wdl", "version 1.0\n\nworkflow w {\n  call t\n}\n", "a WDL workflow", "`call`"),
    ("job.sbatch", "#!/bin/bash\n# mine\n#SBATCH --mem=1G\nsrun x\n", "a Slurm batch script", "`--mem`"),
    ("dag.py", "from airflow import DAG\n", "a Python program", "`module:function`"),
    ("run.sh", "#!/bin/sh\necho hi\n", "a program", "`[[tasks]]`"),
]


@pytest.mark.parametrize(("name", "text", "called", "field"), FOREIGN, ids=[row[0] for row in FOREIGN])
def test_the_answer_says_what_it_is_and_what_to_do(
    tmp_path: Path, name: str, text: str, called: str, field: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    for read in (lambda: load(file), lambda: loads(text.encode(), None)):
        with pytest.raises(DocumentError) as caught:
            read()
        (problem,) = caught.value.problems
        assert problem.path == ""
        assert called in problem.message
        assert field.strip("`") in problem.message
        assert "raftflow help document" in problem.message


def test_they_are_told_apart_over_http_as_well() -> None:
    with pytest.raises(DocumentError, match="docker compose"):
        normalize({"services": {"db": {"image": "x"}}})


OURS = [
    {"name": "w", "tasks": [{"id": "a", "command": ["true"]}], "services": {"db": {"image": "x"}}},
    {"name": "w"},
    {"name": "w", "jobs": []},
    {"name": "w", "defaults": {"env": {"script": "x"}}},
    {"nmae": "w", "task": []},
]


@pytest.mark.parametrize("document", OURS, ids=str)
def test_what_may_be_ours_is_judged_as_ours(document: dict[str, object]) -> None:
    assert kind_of(document) is None


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.3", "1.4"])
def test_an_older_wfformat_is_told_how_it_is_rewritten(version: str) -> None:
    old = f'{{"name": "x", "schemaVersion": "{version}", "workflow": {{"tasks": [], "makespan": 1}}}}'
    with pytest.raises(DocumentError) as caught:
        loads(old.encode(), None)
    (problem,) = caught.value.problems
    assert problem.path == "schemaVersion"
    assert f"this is WfFormat {version}" in problem.message
    assert "wfcommons-migrate-instance.py" in problem.message


def test_wfformat_1_6_is_read_as_1_5() -> None:
    task = {"id": "a", "name": "a", "parents": [], "children": []}
    import json

    whole = {"name": "x", "schemaVersion": "1.6", "workflow": {"specification": {"tasks": [task], "metrics": {}}}}
    assert [each["id"] for each in loads(json.dumps(whole).encode(), None)["tasks"]] == ["a"]


CONTENT = [
    ("\ufeff  \n# a comment\n[[tasks]]\nid = 1\n", {"tasks": [{"id": 1}]}),
    ('name = "a: b"\n', {"name": "a: b"}),
    ('"quoted key" = 1', {"quoted key": 1}),
    ("a.b = 1", {"a": {"b": 1}}),
    ("[table]\nx = 1", {"table": {"x": 1}}),
    ('\n\n{"name": "w"}', {"name": "w"}),
    ("{\n}", {}),
    ("{name: w, tasks: [{id: a}]}", {"name": "w", "tasks": [{"id": "a"}]}),
    ("---\nname: w", {"name": "w"}),
    ("%YAML 1.2\n---\nname: w", {"name": "w"}),
    ("name: x = 1", {"name": "x = 1"}),
    ("'name': w", {"name": "w"}),
    ("$schema: x\nname: w", {"$schema": "x", "name": "w"}),
    ('name: w\ncode: |\n  import os\n  job "x" {\n', {"name": "w", "code": 'import os\njob "x" {\n'}),
    ("code = '''\nimport os\n'''", {"code": "import os\n"}),
]


@pytest.mark.parametrize(("text", "document"), CONTENT, ids=[repr(row[0])[:30] for row in CONTENT])
def test_the_content_tells_its_format(text: str, document: object) -> None:
    assert loads(text.encode(), None) == document


WRONG = [
    (b"", "is empty"),
    (b"\n# nothing but a comment\n", "is empty"),
    (b"what is this", "is not JSON, TOML or YAML: it begins with 'what is this'"),
    (b"\x00" * 100, "binary"),
    (b"\xffname: x", "not text in UTF-8"),
    ('{"name": 1}'.encode("utf-16"), "is UTF-16; save it as UTF-8"),
    (b'{"name": 1,}', "line 1"),
    (b"name = [", "at end of document"),
    (b"a: b: c", "line 1"),
    (b'{"a": NaN}', "a"),
    (b'{"a": 1, "a": 2}', "twice"),
    (b"[1, 2]", "a workflow document must be a table"),
]


@pytest.mark.parametrize(("data", "said"), WRONG, ids=[row[1] for row in WRONG])
def test_content_that_is_no_document(data: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=r"^standard input") as caught:
        loads(data, None, source="standard input")
    assert said in str(caught.value)


def test_a_file_with_the_wrong_ending_is_told_what_it_looks_like(tmp_path: Path) -> None:
    file = tmp_path / "flow.json"
    file.write_text("name: w\ntasks: []\n")
    with pytest.raises(FormatError, match=r"looks like YAML: try --format yaml"):
        load(file)

"""Clients that others' tools make of the API's description submit a workflow and read it back."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract import tools

TOKEN = "t" * 20
DOCUMENT = {
    "name": "nightly",
    "priority": 70,
    "defaults": {"retries": 2, "env": {"LEVEL": "high"}},
    "tasks": [
        {"id": "fetch", "command": ["python3", "fetch.py"], "resources": {"cpu": 2, "memory": "512MiB", "gpu": 1}},
        {"id": "sum", "python": "m:f", "args": [1, {"$result": "fetch"}], "needs": ["fetch"], "timeout": "5m"},
    ],
}

MAIN_TS = """
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[] };
const [, , baseUrl, token] = process.argv;
const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });

const document: components["schemas"]["WorkflowDocument"] = DOCUMENT;
const created = await client.POST("/v1/workflows", { body: document });
if (created.error) throw new Error(created.error.detail);
const path = { id: created.data.id };
const shown = await client.GET("/v1/workflows/{id}", { params: { path } });
const listed = await client.GET("/v1/workflows/{id}/tasks", { params: { path, query: { limit: 10 } } });
if (shown.error || listed.error) throw new Error("not read");
const missing = await client.GET("/v1/workflows/{id}", { params: { path: { id: "none" } } });
const ids: string[] = listed.data.tasks.map((task) => task.id);
const total: number = shown.data.tasks.total;
console.log(JSON.stringify({ name: shown.data.name, total, ids, missing: missing.error?.status }));
"""
WRONG_TS = """
import type { paths } from "./api.js";
type Document = paths["/v1/workflows"]["post"]["requestBody"]["content"]["application/json"];
// @ts-expect-error a name is a text
export const a: Document = { name: 1, tasks: [] };
// @ts-expect-error a document has tasks
export const b: Document = { name: "w" };
// @ts-expect-error a command is a list
export const c: Document = { name: "w", tasks: [{ id: "t", command: "true" }] };
// @ts-expect-error nothing is called so
export const d: Document = { name: "w", tasks: [{ id: "t", command: ["true"], retrys: 1 }] };
"""
MAIN_PY = """
import json
import sys

from client import AuthenticatedClient
from client.api.default import list_tasks, show_workflow, submit_workflow
from client.models import Problem, WorkflowDocument

base_url, token, text = sys.argv[1:]
document = WorkflowDocument.from_dict(json.loads(text))
assert document.to_dict() == json.loads(text), document.to_dict()
with AuthenticatedClient(base_url=base_url, token=token) as client:
    created = submit_workflow.sync(client=client, body=document)
    shown = show_workflow.sync(created.id, client=client)
    listed = list_tasks.sync(created.id, client=client, limit=10)
    missing = show_workflow.sync("none", client=client)
    assert isinstance(missing, Problem), missing
    ids = [task.id for task in listed.tasks]
    print(json.dumps({"name": shown.name, "total": shown.tasks.total, "ids": ids, "missing": missing.status}))
"""
READ = {"name": "nightly", "total": 2, "ids": ["fetch", "sum"], "missing": 404}


async def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def describe(one: Any, folder: Path) -> Path:
    file = folder / "openapi.json"
    file.write_bytes((await one.get("/v1/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"})).body)
    return file


async def test_a_typescript_client_submits_and_reads(serve: Any, tmp_path: Path) -> None:
    modules = tools("npm") / "node_modules"
    one = await serve(token=TOKEN)
    file = await describe(one, tmp_path)
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "main.ts").write_text(MAIN_TS.replace("DOCUMENT", json.dumps(DOCUMENT)))
    (tmp_path / "wrong.ts").write_text(WRONG_TS)
    options = {
        "target": "es2022", "module": "nodenext", "moduleResolution": "nodenext", "lib": ["es2022", "dom"],
        "strict": True, "exactOptionalPropertyTypes": True, "types": [], "skipLibCheck": True,
    }  # fmt: skip
    (tmp_path / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": options, "files": ["main.ts", "wrong.ts"]})
    )
    await run(modules / ".bin" / "openapi-typescript", file, "-o", "api.d.ts", cwd=tmp_path)
    await run(modules / ".bin" / "tsc", "--project", ".", cwd=tmp_path)
    assert json.loads(await run("node", "main.js", one.url, TOKEN, cwd=tmp_path)) == READ


async def test_a_generated_python_client_submits_and_reads(serve: Any, tmp_path: Path) -> None:
    packages = str(tools("python") / "packages")
    one = await serve(token=TOKEN)
    file = await describe(one, tmp_path)
    binaries = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it formats what it makes with ruff
    generate = (
        "generate",
        "--path",
        file,
        "--output-path",
        tmp_path / "client",
        "--meta",
        "none",
        "--fail-on-warning",
    )
    await run(
        sys.executable, "-m", "openapi_python_client", *generate, cwd=tmp_path, PYTHONPATH=packages, PATH=binaries
    )
    (tmp_path / "main.py").write_text(MAIN_PY)
    command = (sys.executable, "main.py", one.url, TOKEN, json.dumps(DOCUMENT))
    assert json.loads(await run(*command, cwd=tmp_path, PYTHONPATH=f"{packages}:{tmp_path}")) == READ


@pytest.mark.parametrize("name", ["npm", "python", "promtool"])
def test_tools_are_there(name: str) -> None:
    """So that a run in which they are missing says so by name."""
    assert tools(name).is_dir()

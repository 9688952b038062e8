"""Check that everything users see is documented."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import streamer
from streamer import errors, hookspecs, sse
from streamer.model.events import KINDS
from streamer.web.app import SERVICE
from streamer.web.callers.access import ACTIONS

ROOT = Path(__file__).parents[2]
CLIENTS = (ROOT / "docs" / "clients.md").read_text()
HTTP = (ROOT / "docs" / "http.md").read_text()
SSE = (ROOT / "docs" / "sse.md").read_text()
BACKENDS = (ROOT / "docs" / "backends.md").read_text()
EMBEDDING = (ROOT / "docs" / "embedding.md").read_text()
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PUBLIC = {
    "streamer",
    *(f"streamer.{name}" for name in ["client", "errors", "events", "spi", "sse", "testing"]),
}
NAMED = re.compile(
    r"`((?:streamer|sandboxes|tests|docs|examples|benchmarks|deploy|requirements|\.ci)/[\w./*-]*)`"
)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def test_every_route_is_documented() -> None:
    app = streamer.create_app()
    routes = set()
    for route in app.router.routes():
        info = route.resource.get_info() if route.resource else {}
        path = info.get("path") or info.get("formatter", "")
        if route.method != "HEAD" and "/static/" not in path and path:
            routes.add(f"{route.method} {path}")
    assert app[SERVICE] is not None
    assert sorted(route for route in routes if f"`{route}`" not in HTTP) == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_event_and_its_fields_are_documented(kind: str) -> None:
    (row,) = [line for line in HTTP.splitlines() if line.startswith(f"| `{kind}` |")]
    fields = KINDS[kind].__struct_encode_fields__
    missing = [name for name in fields if f"`{name}`" not in row and name != "t"]
    assert missing == []


@pytest.mark.parametrize("hook", hookspecs.__all__)
def test_every_hook_is_documented_with_its_arguments(hook: str) -> None:
    arguments = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"`{hook}({arguments})`" in BACKENDS


def test_every_method_of_a_job_is_documented_with_what_it_returns() -> None:
    rows = [line for line in EMBEDDING.splitlines() if line.startswith("| `")]
    methods = {name for name in vars(streamer.Job) if not name.startswith("_")} - {"follow"}
    missing = {name for name in methods if not any(f"`{name}(" in row for row in rows)}
    assert missing == set()


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_is_documented_with_who_asks_for_it(action: str) -> None:
    assert [line for line in EMBEDDING.splitlines() if line.startswith(f"| `{action}` | ")]


def test_every_error_code_is_documented() -> None:
    codes = {
        value.code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.StreamerError)
    }
    # A SandboxFailure becomes an event, and never an answer.
    assert sorted(code for code in codes if f"`{code}`" not in HTTP) == []


def test_every_public_name_of_the_stream_module_is_documented() -> None:
    missing = [name for name in sse.__all__ if not re.search(rf"[`.]{name}\b", SSE)]
    assert missing == []
    for kind in (sse.Channel, sse.StreamOptions, sse.SessionMap, sse.open_session):
        taken = set(inspect.signature(kind).parameters)
        # A clock is for tests, `leaving` for the service.
        undocumented = {
            name for name in taken - {"clock", "leaving"} if not re.search(rf"\b{name}\b", SSE)
        }
        assert undocumented == set(), kind
    for shown in (sse.PushSession, sse.SessionMap, sse.Channel):
        methods = {name for name in vars(shown) if not name.startswith("_")}
        # Parts of `follow` and `open_session`.
        methods -= {"serve", "tracked"}
        assert {name for name in methods if not re.search(rf"\b{name}\b", SSE)} == set(), shown


def test_every_verb_of_the_client_is_documented_with_its_arguments() -> None:
    table, _ = table_of_verbs()
    for name in dir(streamer.Client):
        if name.startswith("_"):
            continue
        method = getattr(streamer.Client, name)
        shown = [
            text for text in re.findall(r"`(\w+\([^`]*\))`", table) if text.startswith(f"{name}(")
        ]
        assert shown, name
        for argument in inspect.signature(method).parameters.keys() - {"self", "fields", "name"}:
            assert re.search(rf"\b{argument}\b", shown[0]), (name, argument)
    for attribute in inspect.signature(streamer.Client).parameters:
        assert re.search(rf"`streamer\.Client\([^`]*\b{attribute}\b", CLIENTS)


def table_of_verbs() -> tuple[str, str]:
    """Return the columns of Python and of TypeScript in the table of docs/clients.md."""
    table = CLIENTS.split("| Python | does | TypeScript |\n", 1)[1].split("\n\n", 1)[0]
    rows = [line.split(" | ") for line in table.splitlines()[1:]]
    return " ".join(row[0] for row in rows), " ".join(row[-1] for row in rows)


def test_every_verb_of_the_clients_is_in_the_table() -> None:
    python, typescript = table_of_verbs()
    verbs = {name for name in dir(streamer.Client) if not name.startswith("_")}
    assert set(re.findall(r"`(\w+)\(", python)) == verbs
    source = (ROOT / "clients" / "typescript" / "src" / "client.ts").read_text()
    methods = re.findall(r"^  (?:async )?\*?(\w+)\((?!url)", source, re.MULTILINE)
    assert set(re.findall(r"`(\w+)\(", typescript)) == {*methods} - {"constructor"}


@pytest.mark.parametrize("path", sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")}))
def test_links_lead_somewhere(path: Path) -> None:
    targets = [path.parent / target for target in LINK.findall(path.read_text())]
    assert [target for target in targets if not target.exists()] == []


@pytest.mark.parametrize("path", [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_named_files_of_the_repository_are_there(path: Path) -> None:
    named = set(NAMED.findall(path.read_text()))
    assert sorted(name for name in named if not list(ROOT.glob(name))) == []


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_samples_import_public_modules_only(path: Path) -> None:
    imported = set()
    for code in FENCE.findall(path.read_text()):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
            elif isinstance(node, ast.Import):
                imported.update(name.name for name in node.names)
    assert {name for name in imported if name.split(".")[0] == "streamer"} <= PUBLIC
    assert not re.search(r"`streamer\.(web|engine|jobs|sandbox|worker)\.", path.read_text())

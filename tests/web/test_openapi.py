"""The OpenAPI document has every route, is valid, and says something of each part."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from openapi_spec_validator import OpenAPIV31SpecValidator

import streamer
from streamer.web.operations.operation import CODES
from streamer.web.operations.table import OPERATIONS
from streamer.web.reference.document import Facts, openapi
from tests.conftest import Start
from tests.contract import table_http
from tests.jobs.archives import zip_of

DOCUMENT = openapi(Facts(""))


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the operations of a document by method and path."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def routes_of(app: web.Application) -> set[str]:
    """Return what an application's router answers, in the notation of the document."""
    found = set()
    for route in app.router.routes():
        info = route.resource.get_info() if route.resource else {}
        path = info.get("path") or info.get("formatter", "")
        # HEAD goes with GET, "" only adds a slash, and the page's parts are its own affair.
        if route.method != "HEAD" and path and "/static/" not in path:
            found.add(f"{route.method} {path}")
    return found


def test_every_route_is_in_the_document_and_nothing_else() -> None:
    assert routes_of(streamer.create_app()) == operations(DOCUMENT).keys()


def test_the_document_is_valid() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_ids_and_codes_are_those_that_are_promised() -> None:
    ids = [operation.id for operation in OPERATIONS]
    assert len({*ids}) == len(ids)
    assert {code: status for code, (status, _) in CODES.items()} == table_http.STATUS


def described(part: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in the document that must have a description, with its place."""
    if isinstance(part, dict):
        for name, inner in part.items():
            here = f"{place}/{name}"
            parent = place.rpartition("/")[2]
            if parent in ("responses", "headers", "schemas", "properties", "securitySchemes"):
                yield here, inner
            yield from described(inner, here)
    elif isinstance(part, list):
        for number, inner in enumerate(part):
            if place.endswith("/parameters"):
                yield f"{place}/{number}", inner
            yield from described(inner, f"{place}/{number}")


def test_each_parameter_header_answer_type_and_field_is_described() -> None:
    parts = [*described(DOCUMENT)]
    assert len(parts) > 200
    plain = {"status", "code"}  # of a problem, which say which of them it may be
    missing = [
        place
        for place, part in parts
        if not part.get("description")
        and "$ref" not in part
        and place.rpartition("/")[2] not in plain
        and "/securitySchemes/token" not in place
        # A list of something that has its own description.
        and "$ref" not in part.get("items", {})
        and not any("$ref" in one for one in part.get("anyOf", []))
        and not re.search("/(oneOf|if|then|else)/", place)
    ]
    assert missing == []


def test_each_header_is_described() -> None:
    text = json.dumps(DOCUMENT)
    headers = {
        name.lower()
        for place, _ in described(DOCUMENT)
        if "/headers/" in place
        for name in [place.rpartition("/")[2]]
    }
    asked = {
        one["name"].lower()
        for operation in operations(DOCUMENT).values()
        for one in operation["parameters"]
        if one["in"] == "header"
    }
    # OpenAPI has other places for some, and others belong to all answers: they are in the text.
    for name in table_http.ANSWER_HEADERS:
        assert name.lower() in headers or f"`{name}`" in DOCUMENT["info"]["description"], name
    for name in table_http.REQUEST_HEADERS:
        assert name.lower() in asked or f"`{name}" in text, name


def test_generators_of_clients_find_what_they_need() -> None:
    """They leave out a route with a body without a schema, and take `oneOf` for the whole type."""
    bodies = [
        media
        for operation in operations(DOCUMENT).values()
        for part in (operation.get("requestBody", {}), *operation["responses"].values())
        for media in part.get("content", {}).values()
    ]
    assert [media for media in bodies if not media.get("schema")] == []
    types = DOCUMENT["components"]["schemas"]
    with_default = [
        f"{name}.{field}"
        for name, one in types.items()
        for field, schema in one.get("properties", {}).items()
        if "default" in schema
    ]
    assert with_default == []
    both = [
        name for name, one in types.items() if "properties" in one and {"oneOf", "anyOf"} & {*one}
    ]
    assert both == []


@pytest.mark.parametrize(
    ("job", "valid"),
    [
        ({"language": "python"}, True),
        ({"language": "python", "command": None}, True),
        ({"command": ["true"]}, True),
        ({"command": ["true"], "language": None}, True),
        ({}, False),
        ({"language": None}, False),
        ({"command": []}, False),
        ({"language": "python", "command": ["true"]}, False),
    ],
)
def test_a_job_has_a_language_or_a_command(job: dict[str, Any], valid: bool) -> None:  # noqa: FBT001
    types = DOCUMENT["components"]["schemas"]
    schema = {**types["JobRequest"], "components": {"schemas": types}}
    assert jsonschema.Draft202012Validator(schema).is_valid(job) is valid


def test_each_example_is_what_its_schema_allows() -> None:
    tried = 0
    for operation in operations(DOCUMENT).values():
        for media in operation.get("requestBody", {}).get("content", {}).values():
            for example in media.get("examples", {}).values():
                schema = {**DOCUMENT, **media["schema"]}
                jsonschema.Draft202012Validator(schema).validate(example["value"])
                tried += 1
    assert tried == 7


@pytest.mark.parametrize("route", [*operations(DOCUMENT)])
def test_what_any_such_route_may_answer_is_told(route: str) -> None:
    operation = operations(DOCUMENT)[route]
    told = {"400", "401", "403", "429", "500"}
    told |= {"404"} if "{" in route else set()
    told |= {"413"} if "requestBody" in operation else set()
    assert operation["responses"].keys() >= told


@pytest.mark.parametrize("route", [*operations(DOCUMENT)])
def test_each_parameter_in_the_path_is_described(route: str) -> None:
    operation = operations(DOCUMENT)[route]
    named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
    assert named == {*re.findall(r"{(\w+)}", route)}


@pytest.mark.parametrize(
    ("path", "status", "ids", "others"),
    [
        ("/api/execute", "202", {"job", "job_id"}, set()),
        ("/api/projects", "201", {"project_id"}, {"execute"}),
    ],
)
def test_links_lead_to_operations_and_give_them_what_they_need(
    path: str, status: str, ids: set[str], others: set[str]
) -> None:
    by_id = {one["operationId"]: one for one in operations(DOCUMENT).values()}
    links = DOCUMENT["paths"][path]["post"]["responses"][status]["links"]
    that_take_it = {
        name
        for name, one in by_id.items()
        if ids & {parameter["name"] for parameter in one["parameters"]}
    }
    assert links.keys() == that_take_it | others
    for link in links.values():
        needed = {
            one["name"] for one in by_id[link["operationId"]]["parameters"] if one["required"]
        }
        assert link["parameters"].keys() == needed


async def test_the_link_from_a_project_to_a_job_in_it_leads_there(start: Start) -> None:
    links = DOCUMENT["paths"]["/api/projects"]["post"]["responses"]["201"]["links"]
    client = await start()
    data = zip_of([("main.py", b"print(1)")])
    async with client.post("/api/projects", data=data) as response:
        project = (await response.json())["projectId"]
    body = json.loads(
        json.dumps(links["execute"]["requestBody"]).replace("$response.body#/projectId", project)
    )
    async with client.post("/api/execute", json=body) as response:
        assert response.status == 202, await response.text()


@pytest.mark.parametrize("target", ["/openapi.json", "/docs"])
async def test_a_client_that_has_it_is_told_so(start: Start, target: str) -> None:
    client = await start()
    async with client.get(target) as response:
        assert response.status == 200
        body = await response.read()
        etag = response.headers["ETag"]
        assert response.headers["Cache-Control"] == "no-cache"
    async with client.get(target, headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")
    async with client.get(target, headers={"If-None-Match": '"other"'}) as response:
        assert (response.status, await response.read()) == (200, body)
    async with client.head(target) as response:
        assert (response.status, response.headers["ETag"]) == (200, etag)


async def test_addresses_have_the_prefix_at_which_the_service_is_mounted() -> None:
    host = web.Application()
    streamer.setup(host, {"sandbox": {"backend": "plain"}}, prefix="/code")
    host.router.add_get("/other", streamer_has_no_part_in)
    async with TestClient(TestServer(host)) as client:
        async with client.get("/code/openapi.json") as response:
            document = await response.json()
        async with client.get("/code/docs") as response:
            assert "<code>/code</code>" in await response.text()
    assert document["servers"] == [{"url": "/code"}]
    assert document["paths"] == json.loads(json.dumps(DOCUMENT["paths"]))


async def streamer_has_no_part_in(request: web.Request) -> web.Response:
    return web.Response()


async def test_a_job_may_have_what_the_configuration_says(start: Start) -> None:
    limits = {"default": {"wall_time_s": 1}, "max": {"wall_time_s": 2}}
    own = {"mine": {"entry": "a.txt", "run": ["/bin/cat", "{entry}"], "aliases": ["my"]}}
    client = await start(limits=limits, runtimes=own)
    async with client.get("/openapi.json") as response:
        types = (await response.json())["components"]["schemas"]
    assert {"python", "mine", "my"} <= {
        *types["JobRequest"]["properties"]["language"]["anyOf"][0]["enum"]
    }
    number = types["Limits"]["properties"]["wallTimeS"]["anyOf"][0]
    assert (number["minimum"], number["maximum"]) == (0.1, 2)


async def test_a_stranger_is_not_told_what_the_configuration_says(start: Start) -> None:
    token = {"tenant": "a", "sha256": hashlib.sha256(b"secret").hexdigest()}
    client = await start(auth={"tokens": [token]}, limits={"max": {"wall_time_s": 234}})
    mine = {"Authorization": "Bearer secret"}
    for target in ("/openapi.json", "/docs"):
        async with client.get(target) as response:
            assert response.status == 200
            text = await response.text()
        assert not re.search("javascript|234", text.replace("text/javascript", ""))
        async with client.get(target, headers=mine) as response:
            text = await response.text()
        assert "javascript" in text
        assert "234" in text


async def test_addresses_are_those_that_clients_know(start: Start) -> None:
    client = await start(server={"public_url": "https://example.org/run/"})
    async with client.get("/openapi.json") as response:
        document = await response.json()
    assert document["servers"] == [{"url": "https://example.org/run"}]

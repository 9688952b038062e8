"""Every field of a request: null, numbers at the edge, long names, and names with many folders."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.config.schema import Config
from streamer.errors import InvalidJob, StreamerError
from streamer.jobs.resolve import MAX_FILES, Resolver
from streamer.model.capabilities import BackendFacts, Capabilities
from streamer.model.filenames import MAX_DEPTH
from streamer.model.job import MAX_CASES
from streamer.model.runtime import by_name
from streamer.web import problems, wire
from streamer.web.documents import dump
from tests.conftest import Start
from tests.support import AnyClient, run, submit, text
from tests.web import problem, python

INVALID: Final = "invalid_request"

# A submission in which every value is replaced in turn.
WHOLE: Final[dict[str, Any]] = {
    "language": "python",
    "command": ["true"],
    "code": "",
    "files": [{"name": "a", "content": "", "encoding": "utf-8", "mode": "0644"}],
    "projectId": "p",
    "entry": "main.py",
    "args": ["a"],
    "env": {"A": "a"},
    "stdin": "",
    "interactive": True,
    "terminal": {"cols": 80, "rows": 24},
    "limits": dict.fromkeys(
        (
            *("wallTimeS", "cpuTimeS", "memoryBytes", "processes", "openFiles", "fileBytes"),
            *("diskBytes", "outputBytes"),
        ),
        1,
    ),
    "network": False,
    "sandbox": "bwrap",
    "artifacts": ["a"],
    "outputEncoding": "utf-8",
    "metadata": {"a": "a"},
    "cases": [
        {"stdin": "", "args": ["a"], "env": {"A": "a"}, "limits": {"cpuTimeS": 1}, "name": "a"}
    ],
    "stopOnFailure": False,
    "priority": 1,
    "retry": 0,
}
SIGNAL: Final = {"signal": "SIGINT"}

Place = tuple[str | int, ...]


def places(value: Any, at: Place = ()) -> list[Place]:
    """Return the place of every value in a document, its own first."""
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [at, *(place for key, item in inner for place in places(item, (*at, key)))]


def with_literal(document: object, place: Place, literal: str) -> bytes:
    """Return the JSON text of a document with a literal, valid or not, in a place."""
    mark = "\ue000"
    copy: Any = json.loads(json.dumps(document))
    if not place:
        return literal.encode()
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = mark
    return json.dumps(copy, ensure_ascii=False).replace(f'"{mark}"', literal).encode()


def written(place: Place) -> str:
    """Return a path as answers write it, up to its last name."""
    text = "$"
    for key in place:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text


EDGES: Final = (
    *("0", "-0", "-1", "0.0", "-0.0", "1.5", "1e400", "-1e400", "1e308", "1e-400", "true", "false"),
    *("NaN", "Infinity", "-Infinity", "111111111111111111111111", "9" * 1000, "9" * 5000),
    *("-" + "9" * 400, "9" * 400 + ".5", "0." + "0" * 5000 + "1", "18446744073709551616"),
    *("9223372036854775808", "1e5", "1E+2", "[]", "{}", '""', '"1"', "[" * 200 + "]" * 200),
)

digits: Final = st.text("0123456789", min_size=1, max_size=1000)
numbers: Final = st.one_of(
    st.sampled_from(EDGES),
    st.integers().map(str),
    st.floats().map(json.dumps),
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", "-"]),
        digits,
        st.one_of(st.just(""), digits.map(".{}".format)),
        st.one_of(st.just(""), st.integers(-999, 999).map("e{}".format)),
    ),
)

RESOLVER: Final = Resolver(
    Config.from_mapping({"sandbox": {"allow_command": True}}), by_name(Config().runtimes)
)

WORKERS = Capabilities(
    {"bwrap": BackendFacts("namespaces")},
    default="bwrap",
    languages=frozenset(Config().runtimes),
    missing={},
    processors=1,
    places=1,
)


def accept(body: bytes) -> None:
    RESOLVER.resolve(
        wire.parse_job(body),
        "job",
        WORKERS,
    )


def has_whole_problem(error: StreamerError) -> None:
    document = json.loads(dump(problems.problem(error)))
    assert document["status"] in (400, 403)
    assert len(json.dumps(document)) < 2000
    if document["code"] != "invalid_json":
        assert str(document["path"]).startswith("$")


@given(place=st.sampled_from(places(WHOLE)), literal=numbers)
def test_a_number_anywhere_in_a_submission_is_taken_or_refused_with_its_place(
    place: Place, literal: str
) -> None:
    # command and language exclude each other, so each is tried without the other.
    document = {**WHOLE, "language": None} if place[:1] == ("command",) else WHOLE
    document = document if place[:1] == ("command",) else {**document, "command": None}
    document = {**document, "terminal": document["terminal"] if "terminal" in place else None}
    for field in ("projectId", "artifacts"):
        document = {**document, field: WHOLE[field] if field in place else None}
    try:
        accept(with_literal(document, place, literal))
    except StreamerError as error:
        has_whole_problem(error)


@given(place=st.sampled_from(places(SIGNAL)), literal=numbers)
def test_a_number_anywhere_in_a_signal_is_refused_with_its_place(
    place: Place, literal: str
) -> None:
    with pytest.raises(InvalidJob) as refused:
        wire.parse_signal(with_literal(SIGNAL, place, literal))
        raise InvalidJob("a text", path="$.signal")  # "" and "1" are text, but not names of signals
    has_whole_problem(refused.value)


async def test_no_number_in_any_field_is_a_failure_of_ours(start: Start) -> None:
    client = await start()
    job_id = await submit(client, command=["sleep", "60"])
    failed = []
    for target, document in (("execute", WHOLE), (f"jobs/{job_id}/signal", SIGNAL)):
        for place in places(document):
            for literal in EDGES:
                body = with_literal(document, place, literal)
                async with client.post(f"/api/{target}", data=body) as response:
                    answer = json.loads(await response.text())
                if answer.get("code") != "invalid_json" and "path" not in answer:
                    failed.append((target, place, literal[:30], answer))
                if response.status != 400:
                    failed.append((target, place, literal[:30], answer))
    assert not failed, "\n".join(map(str, failed))


OUT_OF_RANGE: Final = ("111111111111111111111111", "9" * 400, "9" * 5000, "1e400", "-0", "true")


@pytest.mark.parametrize("name", WHOLE["limits"])
async def test_a_limit_at_the_edge_is_refused_at_its_place(start: Start, name: str) -> None:
    client = await start()
    for literal in OUT_OF_RANGE:
        body = with_literal({**python("1"), "limits": {name: 1}}, ("limits", name), literal)
        async with client.post("/api/execute", data=body) as response:
            document = await problem(response, 400, INVALID)
        assert document["path"] == f"$.limits.{name}"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "0x10", "01", ".5"])
async def test_what_is_no_number_in_json_is_no_number(client: AnyClient, number: str) -> None:
    body = b'{"language":"python","code":"","limits":{"wallTimeS":%s}}' % number.encode()
    async with client.post("/api/execute", data=body) as response:
        assert response.status == 400
        assert json.loads(await response.text())["code"] in ("invalid_json", INVALID)


async def test_null_is_not_given_for_every_optional_field(start: Start) -> None:
    client = await start()
    optional = [field for field in WHOLE if field not in ("language", "code")]
    for field in optional:
        assert text(await run(client, **python("print(1)"), **{field: None})) == "1\n", field
    assert text(await run(client, **python("print(1)"), **dict.fromkeys(optional))) == "1\n"
    limits = dict.fromkeys(WHOLE["limits"])
    files = [{"name": "a", "content": "", "encoding": None, "mode": None}]
    assert text(await run(client, **python("print(1)"), limits=limits, files=files)) == "1\n"
    command = {"command": ["echo", "1"], "language": None, "code": None}
    assert text(await run(client, **command)) == "1\n"
    # Required fields are not optional.
    for field, path in (("name", "$.files[0].name"), ("content", "$.files[0].content")):
        files = [{"name": "a", "content": "", field: None}]
        async with client.post("/api/execute", json={**python("1"), "files": files}) as response:
            assert (await problem(response, 400, INVALID))["path"] == path


async def test_a_variable_has_any_name_without_an_equals_sign(start: Start) -> None:
    client = await start()
    names = ["discovery.type", "a-b", "1", "é", " ", "a'b", "\n"]
    code = "import os, json; print(json.dumps(sorted(set(os.environ.values()) & set('0123456'))))"
    env = {name: str(number) for number, name in enumerate(names)}
    assert json.loads(text(await run(client, **python(code), env=env))) == list("0123456")


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_huge_unknown_field_is_refused_in_a_short_answer(
    start: Start, encoding: str
) -> None:
    client = await start()
    body = json.dumps({"` - at `" * 500_000 + "\n": 1}).encode()
    headers = {"Content-Encoding": encoding}
    data = gzip.compress(body) if encoding == "gzip" else body
    for target in ("/api/execute", f"/api/jobs/{await submit(client, **python('1'))}/signal"):
        async with client.post(target, data=io.BytesIO(data), headers=headers) as response:
            assert len(await response.read()) < 2000
            await problem(response, 400, INVALID)


@pytest.mark.parametrize(
    "fields",
    [
        {"language": "x" * 1_000_000, "code": ""},
        {**python(""), "sandbox": "x" * 1_000_000},
        {**python(""), "projectId": "x" * 1_000_000},
        {**python(""), "outputEncoding": "x" * 1_000_000},
        {**python(""), "entry": "x" * 1_000_000},
        {**python(""), "env": {"x" * 1_000_000: "\0"}},
        {**python(""), "env": {"=" * 1_000_000: ""}},
        {**python(""), "args": ["x" * 1_000_000]},
        {**python(""), "files": [{"name": "a", "content": "", "x" * 1_000_000: 1}]},
        {**python(""), "files": [{"name": "a/" * 500 + "b", "content": ""}] * 2},
    ],
    ids=lambda fields: list(fields)[-1],
)
async def test_no_answer_echoes_all_that_was_sent(start: Start, fields: dict[str, Any]) -> None:
    client = await start()
    async with client.post("/api/execute", data=json.dumps(fields).encode()) as response:
        assert len(await response.read()) < 2000
        assert response.status == 400


async def test_folders_in_names_count_as_files_do(start: Start) -> None:
    client = await start()

    async def post(names: list[str]) -> tuple[int, dict[str, Any]]:
        files = [{"name": name, "content": ""} for name in names]
        async with client.post("/api/execute", json={**python(""), "files": files}) as response:
            return response.status, json.loads(await response.text())

    deepest = "/".join("a" * MAX_DEPTH)
    assert (await post([deepest]))[0] == 202
    status, answer = await post([f"a/{deepest}"])
    assert (status, answer["path"]) == (400, "$.files[0].name")
    # One folder and one file each; main.py, which `code` becomes, is one more.
    most = MAX_FILES // 2 - 1
    assert (await post([f"{i}/f" for i in range(most)]))[0] == 202
    status, answer = await post([f"{i}/f" for i in range(most + 1)])
    assert (status, answer["path"]) == (400, "$.files")
    # Shared ones count once.
    assert (await post([f"d/e/{i}" for i in range(MAX_FILES - 3)]))[0] == 202


async def test_as_many_folders_as_a_body_holds_are_refused(client: AnyClient) -> None:
    names = [f"{i:04}/" + "a/" * 40 + "f" for i in range(20_000)]
    files = [{"name": name, "content": ""} for name in names]
    data = io.BytesIO(json.dumps({**python(""), "files": files}).encode())
    async with client.post("/api/execute", data=data) as response:
        assert (await problem(response, 400, INVALID))["path"] == "$.files"


def test_of_too_many_cases_only_the_first_are_parsed() -> None:
    """Eight kilobytes of gzip are millions of them."""
    most = MAX_CASES
    parsers: list[tuple[Callable[[bytes], object], str, str]] = [
        (wire.parse_job, '{{"cases": {}}}', "$.cases"),
        (wire.parse_cases, "{}", "$"),
    ]
    for parse, form, path in parsers:
        for count in (2 * most, most + 1):
            with pytest.raises(InvalidJob, match=f"{most} at most") as refused:
                parse(form.format([{}] * count).encode())
            assert (refused.value.path, wire._parsed.cases) == (path, most + 1)
        assert parse(form.format([{}] * most).encode())


async def test_too_many_files_are_refused_before_any_is_looked_at(client: AnyClient) -> None:
    """Decoding as many as fit into a body blocked the loop for a second."""
    broken = {"name": "a", "content": "!", "encoding": "base64"}
    job = {"language": "python", "files": [broken] * (MAX_FILES + 1)}
    async with client.post("/api/execute", data=io.BytesIO(json.dumps(job).encode())) as response:
        assert (await problem(response, 400, INVALID))["path"] == "$.files"
    job["files"] = [broken]
    async with client.post("/api/execute", json=job) as response:
        assert (await problem(response, 400, INVALID))["path"] == "$.files[0].content"


@pytest.fixture
async def client(start: Start) -> AnyClient:
    return await start()


@pytest.mark.parametrize(
    ("job", "remedy"),
    [
        ({"lang": "python", "code": "1"}, "did you mean language?"),
        ({**python("1"), "output_encoding": "base64"}, "did you mean outputEncoding?"),
        ({**python("1"), "limits": {"wall_time_s": 1}}, "did you mean wallTimeS?"),
        ({**python("1"), "limits": {"xyz": 1}}, "known: wallTimeS, cpuTimeS, "),
        (
            {**python("1"), "files": [{"name": "a", "content": "", "qq": 1}]},
            "known: name, content, ",
        ),
        ({**python("1"), "terminal": {"cols": 1, "row": 1}}, "did you mean rows?"),
        ({**python("1"), "o" * 100_000: 1}, "known: language, command, code, "),
        ({"language": "python", "files": [{"name": "a.py", "content": ""}]}, "in entry"),
    ],
)
async def test_what_is_wrong_is_said_with_a_remedy(
    client: AnyClient, job: dict[str, Any], remedy: str
) -> None:
    async with client.post("/api/execute", json=job) as response:
        assert remedy in (await problem(response, 400, INVALID))["detail"]


async def test_an_unknown_field_of_a_signal_has_the_remedy_of_a_signal(client: AnyClient) -> None:
    job = await submit(client, **python("input()", interactive=True))
    async with client.post(f"/api/jobs/{job}/signal", json={"sig": "SIGINT"}) as response:
        assert "did you mean signal?" in (await problem(response, 400, INVALID))["detail"]

"""Query parameters and headers are understood, or refused with their place."""

from __future__ import annotations

import pytest

from tests.conftest import Start
from tests.support import AnyClient, follow, submit
from tests.web import SLEEPER, problem, python, until_state

INVALID = "invalid_request"


@pytest.fixture
async def client(start: Start) -> AnyClient:
    return await start()


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "jobs?stauts=running"),
        ("GET", "jobs?status=running&offset=5"),
        ("GET", "jobs/{}?wait=5"),
        ("DELETE", "jobs/{}?force=1"),
        ("POST", "jobs/{}/stdin?eof=1"),
        ("POST", "jobs/{}/signal?signal=SIGINT"),
        ("POST", "execute?wait=5"),
        ("GET", "stream/{}?after=5"),
        ("GET", "stream?jobs={}"),
        ("GET", "jobs/{}/output/stdout?tail=5"),
        ("GET", "jobs/{}/cast?speed=1"),
        ("GET", "jobs/{}/sessions?x"),
        ("GET", "runtimes?all=1"),
        ("GET", "sandboxes?all=1"),
        ("GET", "queue?all=1"),
    ],
)
async def test_an_unknown_parameter_is_refused(client: AnyClient, method: str, target: str) -> None:
    job_id = await submit(client, **SLEEPER)
    address = f"/api/{target.format(job_id)}"
    name = address.rpartition("?")[2].rpartition("&")[2].partition("=")[0]
    async with client.request(method, address) as response:
        assert (await problem(response, 400, INVALID))["path"] == f"?{name}"
    assert (await until_state(client, job_id, "running"))["status"] == "running"


WRONG = [
    *(
        ("limit", value)
        for value in (
            *("", "0", "201", "-1", "+1", "1.0", "1e2", "0x1", " 1", "١", "x"),
            *("000000050999", "9" * 5009, "1" * 24, "NaN", "Infinity", "true"),
        )
    ),
    *(
        ("cursor", value)
        for value in (
            *("", "zzz", "1_", "_a", "1.0_", "1.0_A", "-1.0_a", "nan_a", "1e5_a", "1.0_a/"),
            *("1" * 5000 + ".0_a", "1." + "0" * 5000 + "_a", "1.0_" + "a" * 5000, "1.0_a\n"),
        )
    ),
    *(("status", value) for value in ("", "gone", "QUEUED", "running,queued")),
]


async def test_a_wrong_value_of_a_list_is_refused(client: AnyClient) -> None:
    for name, value in WRONG:
        async with client.get("/api/jobs", params={name: value}) as response:
            document = await problem(response, 400, INVALID)
        assert document["path"] == f"?{name}", value
        assert len(document["detail"]) < 300


async def test_a_list_is_bounded_and_told_to_its_end_page_by_page(client: AnyClient) -> None:
    jobs = [await submit(client, command=["true"]) for _ in range(5)]
    for job_id in jobs:
        await follow(client, job_id)
    found: list[str] = []
    params = {"limit": "2"}
    while True:
        async with client.get("/api/jobs", params=params) as response:
            page = await response.json()
        assert len(page["jobs"]) <= 2
        found += [job["jobId"] for job in page["jobs"]]
        if page["nextCursor"] is None:
            break
        # The job that the cursor names is deleted.
        async with client.delete(f"/api/jobs/{found[-1]}?purge=1") as response:
            assert response.status == 204
        params["cursor"] = page["nextCursor"]
    assert found == jobs[::-1]


@pytest.mark.parametrize("value", ["2", "yes", "", "1 ", "TRUE"])
@pytest.mark.parametrize("target", ["DELETE jobs/{}?purge", "POST jobs/{}/stdin?close"])
async def test_a_switch_is_1_or_0(client: AnyClient, target: str, value: str) -> None:
    job_id = await submit(client, **SLEEPER, interactive=True)
    method, _, place = target.partition(" ")
    address, _, name = place.format(job_id).partition("?")
    async with client.request(method, f"/api/{address}", params={name: value}) as response:
        assert (await problem(response, 400, INVALID))["path"] == f"?{name}"


NO_SPEEDS = (
    *("", "nan", "inf", "-1", "1001", "1e2", "1_0", "٢", "0x1", " 1"),
    *("1" * 5000, "1." + "1" * 5000),
)


async def test_a_speed_is_a_plain_number(client: AnyClient) -> None:
    job_id = await submit(client, command=["true"])
    for value in NO_SPEEDS:
        async with client.get(f"/api/stream/{job_id}", params={"speed": value}) as response:
            assert (await problem(response, 400, INVALID))["path"] == "?speed"


@pytest.mark.parametrize(
    "value", ["wait", "wait=", "wait=abc", "wait=-1", "wait=1.5", "wait=1e2", "wait=٢", "wait=1 2"]
)
async def test_a_wait_that_is_no_number_is_refused(client: AnyClient, value: str) -> None:
    headers = {"Prefer": value}
    async with client.post("/api/execute", json=SLEEPER, headers=headers) as response:
        assert (await problem(response, 400, INVALID))["path"] == "Prefer"
    async with client.get("/api/jobs") as response:
        assert (await response.json())["jobs"] == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("wait=60", 60),
        ("WAIT = 60", 60),
        ('wait="60"', 60),
        ("respond-async, wait=60; x=y", 60),
        ("wait=999999999", 300),
    ],
)
async def test_a_wait_is_read_as_the_standard_has_it(
    client: AnyClient, value: str, seconds: int
) -> None:
    headers = {"Prefer": value}
    async with client.post("/api/execute", json=python("1"), headers=headers) as response:
        assert response.status == 200
        assert response.headers["Preference-Applied"] == f"wait={seconds}"


@pytest.mark.parametrize("value", ["handling=lenient", "waiting=5", 'x="wait=5"', ""])
async def test_other_preferences_are_ignored(client: AnyClient, value: str) -> None:
    headers = {"Prefer": value}
    async with client.post("/api/execute", json=SLEEPER, headers=headers) as response:
        assert response.status == 202
        assert "Preference-Applied" not in response.headers


@pytest.mark.parametrize("name", ["lastEventId", "last_event_id", "evs_last_event_id"])
async def test_what_polyfills_add_is_known(client: AnyClient, name: str) -> None:
    job_id = await submit(client, **python("print(1)"))
    whole = await follow(client, job_id)
    query = {name: str(len(whole)), "padding": "true", "evs_preamble": ""}
    for address in (f"/api/stream/{job_id}", f"/api/stream?job={job_id}"):
        async with client.get(address, params=query) as response:
            assert response.status == 204

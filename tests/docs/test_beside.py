"""The service beside an application in another framework: its users are those of the application."""

from __future__ import annotations

import importlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from werkzeug.test import Client as WerkzeugClient
from werkzeug.wrappers import Request as WerkzeugRequest
from werkzeug.wrappers import Response as WerkzeugResponse

import streamer
from streamer.events import Output

EXAMPLE = Path(__file__).parents[2] / "examples" / "beside"
KEY = b"k" * 32


@pytest.fixture
def tickets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("ticket")


@pytest.fixture
async def url(tickets: ModuleType) -> AsyncIterator[str]:
    server = TestServer(importlib.import_module("service").make_app(KEY))
    await server.start_server()
    yield str(server.make_url("/code/"))
    await server.close()


async def cookie_of_starlette(tickets: ModuleType) -> str:
    """Log in to an application of Starlette's, as one of FastAPI is."""

    async def login(request: Request) -> Response:
        response = Response("hello")
        tickets.set_ticket(response, "ann", KEY)
        return response

    app = Starlette(routes=[Route("/login", login, methods=["POST"])])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://example.org") as client:
        return str((await client.post("/login")).headers["set-cookie"])


async def cookie_of_werkzeug(tickets: ModuleType) -> str:
    """Log in to an application of Werkzeug's, as one of Flask is."""

    @WerkzeugRequest.application
    def login(request: WerkzeugRequest) -> WerkzeugResponse:
        response = WerkzeugResponse("hello")
        tickets.set_ticket(response, "ann", KEY)
        return response

    return WerkzeugClient(login).post("/login").headers["Set-Cookie"]


@pytest.mark.parametrize("login", [cookie_of_starlette, cookie_of_werkzeug])
async def test_who_has_logged_in_there_runs_programs_here(
    tickets: ModuleType, url: str, login: object
) -> None:
    assert callable(login)
    cookie, *attributes = str(await login(tickets)).split("; ")
    assert {"httponly", "secure", "path=/code/", "samesite=lax"} <= {
        attribute.lower() for attribute in attributes
    }
    headers = {"Cookie": cookie, "Prefer": "wait=30"}
    job = {"language": "python", "code": "print(6 * 7)"}
    async with ClientSession() as session:
        async with session.post(f"{url}api/execute", json=job, headers=headers) as response:
            document = await response.json()
        assert document["result"]["stdout"] == "42\n"
        at = f"{url}api/jobs/{document['jobId']}"
        expected = {tickets.ticket("ann", KEY): 200, tickets.ticket("bob", KEY): 404, "": 401}
        for text, status in expected.items():
            sent = {"Cookie": f"{tickets.COOKIE}={text}"}
            async with session.get(at, headers=sent) as response:
                assert response.status == status


async def test_the_application_asks_for_a_user(tickets: ModuleType, url: str) -> None:
    async with streamer.Client(url, token=tickets.ticket("Zoé", KEY)) as client:
        events = [event async for event in client.run(language="bash", code="echo 42")]
    output = [event.data.data for event in events if isinstance(event.data, Output)]
    assert "".join(output) == "42\n"


def test_only_a_whole_ticket_counts(tickets: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    good = tickets.ticket("Zoé.x", KEY)
    assert tickets.user_of(good, KEY) == "Zoé.x"
    name, expires, signature = good.split(".")
    later = str(int(expires) + 1)
    for wrong in (
        *("", ".", "..", "é", "a.b.c", f"{name}.{expires}", f"{name}.{expires}."),
        *(f"{name}.{later}.{signature}", f"{name[:-4]}.{expires}.{signature}", f"{good}0"),
    ):
        assert tickets.user_of(wrong, KEY) is None
    assert tickets.user_of(good, b"j" * 32) is None
    with pytest.raises(ValueError, match="32 bytes"):
        tickets.ticket("ann", b"short")
    monkeypatch.setattr(time, "time", lambda: float(expires))
    assert tickets.user_of(good, KEY) is None

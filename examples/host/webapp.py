"""A host application: its own login, database and page, and two mounts of the service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from access import USER, Access
from accounts import SESSION_S, Accounts, User
from aiohttp import web

import streamer

COOKIE = "session"
ACCOUNTS: web.AppKey[Accounts] = web.AppKey("accounts", Accounts)
STUDENTS: web.AppKey[web.Application] = web.AppKey("students", web.Application)
HERE = Path(__file__).parent
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Two mounts: what students run is confined more strictly, and only staff reach the other one.
STUDENTS_CONFIG: dict[str, Any] = {
    "sandbox": {"backend": "bwrap", "preset": "strict"},
    "limits": {"default": {"wall_time_s": 10}, "max": {"wall_time_s": 10}},
    "queue": {"concurrency": 2, "max_per_client": 4},
}
STAFF_CONFIG: dict[str, Any] = {
    "sandbox": {"backend": "firejail"},
    "limits": {"default": {"wall_time_s": 60}, "max": {"wall_time_s": 600}},
    "queue": {"concurrency": 1},
}


@web.middleware
async def with_user(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Look up the session of each request once, for our handlers and for the mounted service."""
    secret = request.cookies.get(COOKIE)
    if secret:
        user = await asyncio.to_thread(request.config_dict[ACCOUNTS].user_of, secret)
        if user is not None:
            request[USER] = user
    response = await handler(request)
    if not response.prepared:  # the headers of a stream have been sent
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response


async def index(_: web.Request) -> web.FileResponse:
    policy = "default-src 'none'; script-src 'self'; connect-src 'self'; form-action 'self'"
    return web.FileResponse(HERE / "page.html", headers={"Content-Security-Policy": policy})


async def login(request: web.Request) -> web.Response:
    form = await request.post()
    name, password = str(form.get("name", "")), str(form.get("password", ""))
    secret = await asyncio.to_thread(request.app[ACCOUNTS].login, name, password)
    if secret is None:
        return web.Response(status=401, text="wrong name or password")
    response = web.Response(status=303, headers={"Location": "/"})
    # Lax: no other site can send a request as this user that changes anything. Behind TLS add
    # secure=True.
    response.set_cookie(COOKIE, secret, max_age=SESSION_S, httponly=True, samesite="Lax")
    return response


async def logout(request: web.Request) -> web.Response:
    await asyncio.to_thread(request.app[ACCOUNTS].logout, request.cookies.get(COOKIE, ""))
    response = web.Response(status=303, headers={"Location": "/"})
    response.del_cookie(COOKIE)
    return response


async def who(request: web.Request) -> web.Response:
    user = _user(request)
    runs = await asyncio.to_thread(request.app[ACCOUNTS].runs, user.name)
    return web.json_response({"name": user.name, "staff": user.staff, "runs": runs})


async def run(request: web.Request) -> web.Response:
    """Submit from Python, without HTTP: the job belongs to the user who asked."""
    user = _user(request)
    service = streamer.get_service(request.app[STUDENTS])
    spec = streamer.JobSpec(language="python", code=await request.text(), metadata={"page": "run"})
    try:
        job = await service.submit(spec, tenant=user.name)
    except streamer.errors.Busy as full:
        raise web.HTTPTooManyRequests(text=str(full)) from None
    except streamer.errors.InvalidJob as wrong:
        raise web.HTTPBadRequest(text=str(wrong)) from None
    await asyncio.to_thread(request.app[ACCOUNTS].note_run, job.id, user.name)
    return web.json_response({"job": job.id, "watch": f"/code/api/stream/{job.id}"})


def _user(request: web.Request) -> User:
    user: User | None = request.get(USER)
    if user is None:
        raise web.HTTPUnauthorized(text="log in first")
    return user


def make_app(database: Path) -> web.Application:
    accounts = Accounts(database)
    app = web.Application(middlewares=[with_user])
    app[ACCOUNTS] = accounts
    for method, path, handler in (
        ("GET", "/", index),
        ("GET", "/who", who),
        ("POST", "/login", login),
        ("POST", "/logout", logout),
        ("POST", "/run", run),
    ):
        app.router.add_route(method, path, handler)
    app.router.add_static("/static/", HERE / "static")
    students = streamer.create_app(STUDENTS_CONFIG, plugins=[Access(accounts, staff_only=False)])
    staff = streamer.create_app(STAFF_CONFIG, plugins=[Access(accounts, staff_only=True)])
    app[STUDENTS] = students
    app.add_subapp("/code", students)
    app.add_subapp("/staff", staff)
    return app

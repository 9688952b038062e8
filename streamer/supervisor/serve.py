"""Serve one port with several processes: `streamer serve --workers N`."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web
from msgspec.structs import replace

from streamer.application import create_app
from streamer.compose import not_shared
from streamer.config.schema import Config
from streamer.errors import ConfigError, StreamerError
from streamer.jobs.tracing import send_spans
from streamer.sandbox.cgroups.tree import leave_delegated
from streamer.supervisor.folder import MARK, processes_folder
from streamer.supervisor.redisserver import PrivateRedis
from streamer.supervisor.supervisor import Supervisor
from streamer.web.app import SERVICE
from streamer.web.server.listening import bound, local_url, url_of
from streamer.web.server.logs import configure_logging, mark_process
from streamer.web.server.process import OneOfSeveral
from streamer.web.server.serve import serve
from streamer.web.siblings import Siblings

__all__ = ["serve_together"]

log: Final = logging.getLogger(__name__)

MEMORY: Final = "memory://"
REFUSED: Final = 2
"""The exit code of a process that cannot start."""

OnReady = Callable[[str, web.Application], Awaitable[None]]


def serve_together(
    config: Config,
    run: Callable[[Coroutine[Any, Any, None]], object],
    on_listening: Callable[[str], None],
    on_ready: OnReady,
) -> None:
    """Serve with `server.workers` processes until a signal; each has its event loop from `run`.

    `on_listening` is called with the URL once all processes answer, and `on_ready` in the first of
    them with that and its application. Raises `ConfigError` and `PluginError` before anything is
    started, and `ServiceError` for what shows then.
    """
    configure_logging(config.logging)
    mark_process("main")
    with processes_folder(config.server.state_dir) as folder:
        redis = PrivateRedis(folder) if config.engine.url == MEMORY else None
        config = _of_one_process(config, redis, folder)
        _check(config)
        listening = bound(config.server)
        try:
            leave_delegated(config.sandbox.cgroup)
            # What exists now is shared with all processes, as long as nobody writes to it.
            gc.freeze()
            one = partial(_serve, config, run, on_ready, listening, folder / MARK)
            told = partial(_announce, config, listening[0], on_listening)
            Supervisor(config.server.workers, one, redis, told).serve()
        finally:
            for sock in listening:
                sock.close()


def _of_one_process(config: Config, redis: PrivateRedis | None, folder: Path) -> Config:
    """Return the configuration that each process has."""
    if not config.queue.concurrency:
        # All of them together run as many jobs as one process would.
        places = max(config.queue.places // config.server.workers, 1)
        config = replace(config, queue=replace(config.queue, concurrency=places))
    if redis is None:
        return config
    if config.server.role != "all":
        raise not_shared(config)
    if config.streams.on_full == "wait":
        raise ConfigError(
            'streams.on_full = "wait": only a service of one process can hold a program for its '
            'readers; set "drop", or server.workers = 1'
        )
    # Files need not be in the server's memory, as all processes see the same disk.
    blobs_url = config.engine.blobs_url or f"file://{quote(str(folder / 'files'))}"
    return replace(config, engine=replace(config.engine, url=redis.url, blobs_url=blobs_url))


def _check(config: Config) -> None:
    """Raise what a process would, in this one, which does not start what it makes."""
    logging.disable(logging.WARNING)  # the first process says it
    try:
        app = create_app(config)
    finally:
        logging.disable(logging.NOTSET)
    if not app[SERVICE].outlive_process:
        raise ConfigError(
            "server.workers: several processes need an engine that they can share, and that of "
            "engine.url is of one process"
        )


def _announce(
    config: Config,
    sock: socket.socket,
    on_listening: Callable[[str], None],
    facts: Mapping[str, Any],
) -> None:
    url = url_of(sock)
    log.info(
        "listens on %s/ with %d processes, %s, at most %d connections each",
        *(url, config.server.workers, facts["part"], facts["connections"]),
    )
    on_listening(local_url(url))


def _serve(
    config: Config,
    run: Callable[[Coroutine[Any, Any, None]], object],
    on_ready: OnReady,
    listening: Sequence[socket.socket],
    folder: Path,
    number: int,
    supervisor: socket.socket,
    *,
    first: bool,
    replaces: str,
) -> int:
    """Be one of the processes, until the supervisor ends it; return the exit code."""
    mark_process(str(number))
    if not first:
        logging.disable(logging.WARNING)  # what each finds at its start, the first one says
    siblings = Siblings(folder, number, config.server.workers)
    process = OneOfSeveral(siblings, listening, supervisor, replaces)
    try:
        app = create_app(config)

        async def ready(address: str) -> None:
            logging.disable(logging.NOTSET)
            if first:
                await on_ready(address, app)

        run(serve(app, config, ready, process))
        if config.tracing.enabled:
            send_spans()
    except StreamerError as error:
        process.say("failed", message=str(error), config=isinstance(error, ConfigError))
        return REFUSED
    return 0

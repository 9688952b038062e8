"""The blocking client: everything that `Client` does, without ``await``."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from streamer.client.blocking import Facade, Iterated, blocking, iterating, wrapping
from streamer.client.client import Client
from streamer.client.portal import Portal
from streamer.client.run import Run
from streamer.client.sessions import RemoteSession
from streamer.client.terminal import Attached
from streamer.model.events import AnyEvent, Complete, Error

__all__ = ["SyncAttached", "SyncClient", "SyncRun", "SyncSession"]


class SyncRun(Iterated[Run, AnyEvent]):
    """One submission and its events, returned by `SyncClient.run`; see `Run`.

    Iterate over it, or use it as ``with client.run(...) as run``, which closes it.
    """

    def __enter__(self) -> Self:
        return self

    @property
    def job_id(self) -> str | None:
        """None until the service has accepted the job."""
        return self._inner.job_id

    @property
    def idempotency_key(self) -> str:
        """Submitting again with the same key returns the id of the same job."""
        return self._inner.idempotency_key


class SyncAttached(Iterated[Attached, bytes]):
    """A job as a pair of byte streams; see `Attached`. One thread may read while others write."""

    write = blocking(Attached.write)
    end_input = blocking(Attached.end_input)
    resize = blocking(Attached.resize)
    signal = blocking(Attached.signal)

    def __enter__(self) -> Self:
        self._portal.call(self._inner.__aenter__)
        return self

    @property
    def job_id(self) -> str | None:
        """None until the job is submitted."""
        return self._inner.job_id

    @property
    def end(self) -> Complete | Error | None:
        """How the job ended; None until its output has ended."""
        return self._inner.end


class SyncSession(Facade[RemoteSession]):
    """A session, returned by `SyncClient.session`; see `RemoteSession`."""

    open = blocking(RemoteSession.open)
    document = blocking(RemoteSession.document)
    end = blocking(RemoteSession.end)
    submit = blocking(RemoteSession.submit)
    run = wrapping(RemoteSession.run, SyncRun)
    files = blocking(RemoteSession.files)
    read = blocking(RemoteSession.read)
    write = blocking(RemoteSession.write)
    remove = blocking(RemoteSession.remove)

    @property
    def id(self) -> str:
        """What a job names in ``sessionId``. Raises `StreamerError` before it is open."""
        return self._inner.id

    def __enter__(self) -> Self:
        self._portal.call(self._inner.__aenter__)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._portal.finish(lambda: self._inner.__aexit__(kind, error, trace))


class SyncClient(Facade[Client]):
    """A connection to one service, for code without ``async``: scripts, notebooks, threads.

    The arguments and methods are those of `Client`: a method waits for its result, and what is an
    asynchronous iterator or context manager there is an ordinary one here. Any number of threads
    may use one client. It works in a thread of its own, which the first call starts; `close`, or
    the end of ``with SyncClient(...) as client``, ends that and whatever is still going on. After a
    fork each process needs a client of its own.
    """

    def __init__(
        self, url: str, *, token: str | None = None, grant: str | None = None, retries: int = 3
    ) -> None:
        client = Client(url, token=token, grant=grant, retries=retries)

        async def closed() -> None:
            await client.__aexit__(None, None, None)

        super().__init__(client, Portal(client.__aenter__, closed))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and end what is going on. A closed client cannot be used again."""
        self._portal.close()

    submit = blocking(Client.submit)
    batch = blocking(Client.batch)
    run = wrapping(Client.run, SyncRun)
    job = blocking(Client.job)
    jobs = iterating(Client.jobs)
    wait = blocking(Client.wait)
    events = iterating(Client.events)
    follow = iterating(Client.follow)
    output = iterating(Client.output)
    recording = iterating(Client.recording)
    readers = blocking(Client.readers)
    cancel = blocking(Client.cancel)
    purge = blocking(Client.purge)
    grant = blocking(Client.grant)
    write = blocking(Client.write)
    end_input = blocking(Client.end_input)
    signal = blocking(Client.signal)
    resize = blocking(Client.resize)
    attach = wrapping(Client.attach, SyncAttached)
    terminal = wrapping(Client.terminal, SyncAttached)
    files = blocking(Client.files)
    read_file = iterating(Client.read_file)
    download = blocking(Client.download)
    upload = blocking(Client.upload)
    project = blocking(Client.project)
    delete_project = blocking(Client.delete_project)
    session = wrapping(Client.session, SyncSession)
    sessions = blocking(Client.sessions)
    queue = blocking(Client.queue)
    runtimes = blocking(Client.runtimes)
    sandboxes = blocking(Client.sandboxes)
    ready = blocking(Client.ready)

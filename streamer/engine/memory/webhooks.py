"""The webhooks of one process.

Nothing here waits, so every method is atomic on the event loop.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from streamer.engine.limits import WebhookLimits
from streamer.engine.views import JobView
from streamer.engine.webhooks import MOST_RESULT_BYTES, Delivery, Due
from streamer.model.events import encode
from streamer.model.webhook import Webhook, WebhookView

__all__ = ["MemoryWebhooks"]

Line = tuple[str, str]
"""A tenant and a place."""


@dataclass(slots=True, eq=False)
class _Hook:
    webhook: Webhook
    tenant: str
    size: int
    job: JobView | None = None
    """The job at its end."""
    attempts: int = 0
    token: str = ""
    """That of the claim, while it is claimed."""

    @property
    def line(self) -> Line:
        return self.tenant, self.webhook.place


class MemoryWebhooks:
    """See `streamer.engine.webhooks.Webhooks`."""

    def __init__(
        self,
        limits: WebhookLimits,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.bell = asyncio.Event()
        self._limits = limits
        self._clock = clock
        self._wall_clock = wall_clock
        self._hooks: dict[str, _Hook] = {}
        self._of: Counter[str] = Counter()
        self._bytes = 0
        self._views: dict[str, WebhookView] = {}
        """Of the jobs that are kept."""
        self._numbers = itertools.count(1)
        self._due: list[tuple[float, int, str, str]] = []
        """When those that are paused or claimed are due: time, number, job, and token."""
        self._lines: dict[Line, OrderedDict[str, None]] = {}
        """Those that are due, by their lines."""
        self._rings: OrderedDict[str, OrderedDict[Line, None]] = OrderedDict()
        """The lines that have their turns, by tenants in the order of theirs."""
        self._claimed_at: float | None = None
        """When somebody claimed last to deliver."""
        self._claimed: Counter[str | Line] = Counter()
        """How many are claimed, of a tenant and of a line."""

    def __len__(self) -> int:
        return len(self._hooks)

    def check(self, tenant: str, size: int) -> None:
        """Raise `Busy` unless one more fits."""
        self._limits.check(len(self._hooks), self._of[tenant], self._bytes, size)

    def add(self, job_id: str, tenant: str, webhook: Webhook, size: int) -> None:
        """Keep a place for that of a job."""
        self._hooks[job_id] = _Hook(webhook, tenant, size)
        self._of[tenant] += 1
        self._bytes += size
        self._views[job_id] = WebhookView("waiting")

    def ended(self, job: JobView) -> None:
        """Let the end of a job be told, if it has a webhook."""
        job_id = job.job.job_id
        hook = self._hooks.get(job_id)
        if hook is None:
            return
        assert job.result is not None
        kind, data = encode(job.result)
        if kind not in hook.webhook.events:
            self._end(job_id, hook, WebhookView("unwanted"))
            return
        hook.job = job if len(data) <= MOST_RESULT_BYTES else replace(job, result=None)
        self._show(job_id, WebhookView("pending", next_at=self._wall_clock()))
        self._ready(job_id, hook)
        self.bell.set()

    def view(self, job_id: str) -> WebhookView | None:
        return self._views.get(job_id)

    def forget(self, job_id: str) -> None:
        """Forget what is shown of a job; its end is still told."""
        self._views.pop(job_id, None)

    async def claim(self, free: int, *, abandoned_s: float | None = None) -> Due:
        if abandoned_s is None or self._claimed_at is None:
            self._claimed_at = self._clock()
        if abandoned_s is not None and self._clock() - self._claimed_at < abandoned_s:
            return Due((), None)
        self._look()
        claimed: list[Delivery] = []
        for job_id, hook in itertools.islice(self._next(), free):
            hook.attempts += abandoned_s is None
            hook.token = str(next(self._numbers))
            self._wait(job_id, hook, self._limits.lease_s)
            assert hook.job is not None
            claimed.append(Delivery(hook.job, hook.webhook.url, hook.attempts, hook.token))
        next_s = max(self._due[0][0] - self._clock(), 0.0) if self._due else None
        return Due(claimed, next_s)

    async def delivered(self, delivery: Delivery) -> None:
        job_id = delivery.job.job.job_id
        if (hook := self._given_back(job_id, delivery.token)) is not None:
            self._end(job_id, hook, WebhookView("delivered", hook.attempts))

    async def failed(self, delivery: Delivery, error: str, pause_s: float | None) -> None:
        job_id = delivery.job.job.job_id
        hook = self._given_back(job_id, delivery.token)
        if hook is None:
            return
        if pause_s is None:
            self._end(job_id, hook, WebhookView("failed", hook.attempts, error))
            return
        self._wait(job_id, hook, pause_s)
        at = self._wall_clock() + pause_s
        self._show(job_id, WebhookView("pending", hook.attempts, error, at))

    def _show(self, job_id: str, view: WebhookView) -> None:
        if job_id in self._views:
            self._views[job_id] = view

    def _end(self, job_id: str, hook: _Hook, view: WebhookView) -> None:
        del self._hooks[job_id]
        self._bytes -= hook.size
        self._of[hook.tenant] -= 1
        if not self._of[hook.tenant]:
            del self._of[hook.tenant]
        self._show(job_id, view)

    # -- whose turn it is -------------------------------------------------------------------

    def _wait(self, job_id: str, hook: _Hook, seconds: float) -> None:
        heapq.heappush(
            self._due, (self._clock() + seconds, next(self._numbers), job_id, hook.token)
        )

    def _look(self) -> None:
        """Let have their turns which are due, and which their holders have lost."""
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            _, _, job_id, token = heapq.heappop(self._due)
            hook = self._hooks.get(job_id)
            if hook is None or hook.token != token:
                continue  # it was told of in time
            if token:
                self._given_back(job_id, token)
            self._ready(job_id, hook)

    def _ready(self, job_id: str, hook: _Hook) -> None:
        self._lines.setdefault(hook.line, OrderedDict())[job_id] = None
        self._offer(hook.line)

    def _offer(self, line: Line) -> None:
        """Give a line its turn, if it has something and may have more claimed."""
        tenant, _ = line
        if line in self._lines and self._claimed[line] < self._limits.at_once_of_place:
            self._rings.setdefault(tenant, OrderedDict())[line] = None

    def _next(self) -> Iterator[tuple[str, _Hook]]:
        """Yield those whose turn it is, each of which is then claimed."""
        most = self._limits.at_once_of_one
        while True:
            free = (one for one in self._rings if most is None or self._claimed[one] < most)
            tenant = next(free, None)
            if tenant is None:
                return
            ring = self._rings[tenant]
            line, _ = ring.popitem(last=False)
            waiting = self._lines[line]
            job_id, _ = waiting.popitem(last=False)
            if not waiting:
                del self._lines[line]
            self._claimed[line] += 1
            self._claimed[tenant] += 1
            self._offer(line)
            self._rings.move_to_end(tenant)
            if not ring:
                del self._rings[tenant]
            yield job_id, self._hooks[job_id]

    def _given_back(self, job_id: str, token: str) -> _Hook | None:
        """Return one that is claimed with this token; it no longer is."""
        hook = self._hooks.get(job_id)
        if hook is None or not token or hook.token != token:
            return None
        hook.token = ""
        for counted in (hook.tenant, hook.line):
            self._claimed[counted] -= 1
            if not self._claimed[counted]:
                del self._claimed[counted]
        self._offer(hook.line)
        self.bell.set()
        return hook

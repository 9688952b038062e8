"""Snapshots of jobs as they travel."""

from __future__ import annotations

import msgspec

from streamer.engine.views import JobState, JobView
from streamer.model.events import decode, encode
from streamer.model.job import JobFacts
from streamer.model.webhook import WebhookView


class SentView(msgspec.Struct):
    """An encoded `JobView`."""

    job: JobFacts
    tenant: str
    state: JobState
    created_at: float
    started_at: float | None
    finished_at: float | None
    first_output_at: float | None
    position: int | None
    estimated_wait_s: float | None
    result: tuple[str, bytes] | None
    webhook: WebhookView | None

    def view(self) -> JobView:
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        result = None if self.result is None else decode(*self.result)
        return JobView(**{**fields, "result": result})

    @classmethod
    def of(cls, view: JobView) -> SentView:
        fields = {name: getattr(view, name) for name in cls.__struct_fields__}
        result = None if view.result is None else encode(view.result)
        return cls(**{**fields, "result": result})

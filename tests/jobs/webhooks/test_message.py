"""What a webhook says, and its signature."""

from __future__ import annotations

import json

import pytest

from streamer.config.webhooks import secret_bytes
from streamer.engine.views import JobView
from streamer.jobs.webhooks.message import body_of, headers_of
from streamer.model.events import Error
from streamer.model.job import JobFacts

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

JOB = JobView(
    job=JobFacts("job1", "python", "bwrap", interactive=False, metadata={"k": "\u00e4"}),
    tenant="ann",
    state="error",
    created_at=1_700_000_000.25,
    started_at=None,
    finished_at=1_700_000_001.5,
    result=Error("worker_lost", "its worker is gone"),
)


def test_the_signature_is_that_of_the_library_of_standard_webhooks() -> None:
    """What standardwebhooks 1.1.0 for Python computes for it."""
    body = '{"test": 2432232314, "text": "\u00e4"}'.encode()
    headers = headers_of("job1", body, [secret_bytes(SECRET)], 1_614_265_330.9)
    assert headers["webhook-id"] == "msg_job1"
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,OH34/qHWKcGeBIxOHzWCs+8iZFtdRQEPNg5kq4rVGYA="


def test_each_secret_signs() -> None:
    other = "whsec_" + "QUFB" * 8
    keys = [secret_bytes(SECRET), secret_bytes(other)]
    both = headers_of("job1", b"{}", keys, 1.0)["webhook-signature"].split(" ")
    each = [headers_of("job1", b"{}", [key], 1.0)["webhook-signature"] for key in keys]
    assert both == each
    assert len({*both}) == 2


def test_the_body_is_the_same_each_time() -> None:
    body = body_of(JOB)
    assert body == body_of(JOB)
    assert json.loads(body) == {
        "type": "job.error",
        "timestamp": "2023-11-14T22:13:21.500+00:00",
        "data": {
            "jobId": "job1",
            "status": "error",
            "language": "python",
            "metadata": {"k": "\u00e4"},
            "createdAt": "2023-11-14T22:13:20.250+00:00",
            "startedAt": None,
            "finishedAt": "2023-11-14T22:13:21.500+00:00",
            "result": {"code": "worker_lost", "message": "its worker is gone"},
        },
    }


@pytest.mark.parametrize(
    "text", ["", "whsec_", "QUFB" * 8, "whsec_" + "QUFB" * 7, "whsec_" + "QUFB" * 22, "whsec_!" * 8]
)
def test_a_secret_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whsec_ and base64"):
        secret_bytes(text)

"""Each number of the configuration reaches the one place that it is for."""

from __future__ import annotations

from types import SimpleNamespace

import streamer
from streamer.compose import build
from streamer.engine.limits import QueueLimits
from streamer.engine.memory.engine import MemoryEngine
from streamer.engine.memory.retention import RetentionLimits
from streamer.eventlog.pages import PAGE_BYTES
from streamer.sse.response import StreamOptions

TOKENS = {"tokens": [{"tenant": name, "sha256": name * 64} for name in ("a", "b")]}


def test_the_streams_have_the_settings_of_streams() -> None:
    streams = {
        "heartbeat_s": 11,
        "write_timeout_s": 12,
        "grace_s": 0.5,
        "retry_ms": 1300,
        "retry_jitter_ms": 1400,
        "max_readers_per_job": 15,
        "max_readers": 16,
        "max_buffered_bytes": 17_000_000,
    }
    sessions = streamer.get_sessions(streamer.create_app({"streams": streams, "auth": TOKENS}))
    assert sessions.options == StreamOptions(
        heartbeat_s=11, write_timeout_s=12, grace_s=0.5, retry_ms=1300, retry_jitter_ms=1400
    )
    most = (sessions._max_per_key, sessions._max_sessions, sessions._share_of("a"))
    assert most == (15, 16, 8)
    assert sessions.outgoing._most == 17_000_000


def engine_of(**sections: object) -> MemoryEngine:
    engine = build(sections).engine
    assert isinstance(engine, MemoryEngine)
    return engine


def test_the_engine_has_the_settings_of_the_queue_and_of_the_logs() -> None:
    queue = {
        "concurrency": 3,
        "max_waiting": 21,
        "max_waiting_bytes": 22_000_000,
        "max_per_client": 5,
        "max_running_per_client": 2,
    }
    streams = {
        "retention_bytes": 31_000_000,
        "log_memory_bytes": 3_200_000,
        "log_bytes": 33_000_000,
        "disk_bytes": 34_000_000,
        "on_full": "wait",
    }
    engine = engine_of(queue=queue, streams=streams, auth=TOKENS)
    assert engine._limits == QueueLimits(
        places=3,
        max_waiting=21,
        max_waiting_bytes=22_000_000,
        max_waiting_per_client=5,
        max_waiting_bytes_per_client=11_000_000,
        max_running_per_client=2,
    )
    assert engine._retention._limits == RetentionLimits(
        memory=31_000_000, log_memory=3_200_000, log=33_000_000, on_full="wait"
    )


def test_without_a_number_a_client_has_all_places_but_one_of_all_workers() -> None:
    limits = engine_of(queue={"concurrency": 3}, auth=TOKENS)._limits
    assert (limits.running_of("a"), limits.leaves_place("a")) == (2, True)
    limits = engine_of(queue={"concurrency": 3})._limits
    assert (limits.running_of("a"), limits.leaves_place("a")) == (None, False)


def test_the_engine_keeps_as_much_for_as_long_as_it_is_told() -> None:
    engine = engine_of(
        queue={"idempotency_s": 41, "max_idempotency_keys": 42},
        streams={"retention_s": 43, "disk_bytes": 44_000 * PAGE_BYTES},
    )
    keys = engine._table._forgotten_keys
    assert (keys._keep_s, keys._most) == (41, 42)
    assert engine._table._retention_s == 43
    assert engine._spool._pages._most == 44_000


def test_the_backends_have_the_settings_of_the_sandbox() -> None:
    own = {"entry": "main", "run": ["/bin/sh"], "read_only": ["/srv"], "etc": ["profile"]}
    sandbox = {"backend": "plain", "path": "/own", "network": "allow-list", "warm": False}
    backends = build({"sandbox": sandbox, "runtimes": {"own": own}}).worker.backends
    trial = backends._trial_of
    assert (backends._configured, trial._path, trial._allow_list) == ("plain", "/own", True)
    assert {*trial._read_only} >= {"/srv"}
    assert {*trial._etc} >= {"profile"}
    assert not backends._warm


def test_one_tenant_alone_has_all_of_the_queue() -> None:
    one = {"tokens": TOKENS["tokens"][:1]}
    assert engine_of(auth=one)._limits.max_waiting_per_client is None
    assert engine_of(auth=TOKENS)._limits.max_waiting_per_client is not None


def test_who_decides_who_may_do_what_has_several_clients() -> None:
    @streamer.hookimpl
    def streamer_authorize() -> None:
        """Leave it to others."""

    hooks = SimpleNamespace(streamer_authorize=streamer_authorize)
    assert build(plugins=(hooks,)).shares.running is not None
    assert build().shares.running is None

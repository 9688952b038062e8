"""The sections and keys of config.toml: what is promised, and the defaults others build on."""

from __future__ import annotations

from typing import Any, Final

from tests.contract import ADDED, KEPT, Mark

MIB: Final = 1024 * 1024
ANY: Final = object()
"""No default is promised."""

SECTIONS: Final[dict[str, Mark]] = {
    "server": KEPT,
    "sandbox": KEPT,
    "limits": KEPT,
    "runtimes": KEPT,
    "queue": KEPT,
    "streams": KEPT,
    "projects": 11,
    "sessions": 11,
    "environments": 11,
    "engine": KEPT,
    "auth": KEPT,
    "metrics": KEPT,
    "logging": KEPT,
    "plugins": ADDED,
}

KEYS: Final[dict[str, tuple[Mark, Any]]] = {
    "server.host": (KEPT, "127.0.0.1"),
    "server.port": (KEPT, 8080),
    "server.max_body_bytes": (KEPT, ANY),
    "server.drain_s": (KEPT, ANY),
    "server.allowed_origins": (KEPT, ()),
    "server.body_timeout_s": (ADDED, ANY),
    "server.bodies_bytes": (ADDED, ANY),
    "server.state_dir": (ADDED, ANY),
    "server.public_url": (ADDED, ""),
    "server.trusted_proxies": (ADDED, ()),
    "sandbox.backend": (KEPT, "auto"),
    "sandbox.allow": (KEPT, ()),
    "sandbox.allow_command": (ADDED, False),
    "sandbox.network": (ADDED, "none"),
    "sandbox.allow_hosts": (ADDED, ()),
    "sandbox.preset": (ADDED, ANY),
    "sandbox.kill_grace_s": (ADDED, ANY),
    "sandbox.uid_base": (ADDED, ANY),
    "sandbox.path": (ADDED, ANY),
    "sandbox.cgroup": (ADDED, ANY),
    "sandbox.seccomp": (ADDED, "standard"),
    "sandbox.require": (ADDED, ANY),
    "sandbox.linger_s": (KEPT, 0.25),
    "limits.default.wall_time_s": (KEPT, 60.0),
    "limits.default.cpu_time_s": (KEPT, 60.0),
    "limits.default.memory_bytes": (KEPT, 256 * MIB),
    "limits.default.processes": (KEPT, 64),
    "limits.default.open_files": (KEPT, 256),
    "limits.default.file_bytes": (KEPT, 64 * MIB),
    "limits.default.disk_bytes": (KEPT, 128 * MIB),
    "limits.default.output_bytes": (KEPT, 16 * MIB),
    "limits.default.stack_bytes": (KEPT, 8 * MIB),
    "limits.max.wall_time_s": (KEPT, 600.0),
    "limits.max.cpu_time_s": (KEPT, 600.0),
    "limits.max.memory_bytes": (KEPT, 2048 * MIB),
    "limits.max.processes": (KEPT, 512),
    "limits.max.open_files": (KEPT, ANY),
    "limits.max.file_bytes": (KEPT, 640 * MIB),
    "limits.max.disk_bytes": (KEPT, 1280 * MIB),
    "limits.max.output_bytes": (KEPT, 1024 * MIB),
    "limits.max.stack_bytes": (KEPT, 2048 * MIB),
    "queue.concurrency": (KEPT, 0),
    "queue.max_waiting": (KEPT, 1000),
    "queue.max_waiting_bytes": (KEPT, ANY),
    "queue.max_per_client": (KEPT, ANY),
    "queue.max_running_per_client": (KEPT, ANY),
    "streams.heartbeat_s": (KEPT, 30.0),
    "streams.retention_s": (KEPT, 600.0),
    "streams.retention_bytes": (KEPT, ANY),
    "streams.grace_s": (KEPT, 1.0),
    "streams.max_readers_per_job": (KEPT, ANY),
    "streams.log_memory_bytes": (ADDED, ANY),
    "streams.disk_bytes": (ADDED, ANY),
    "streams.log_bytes": (ADDED, ANY),
    "streams.on_full": (ADDED, ANY),
    "streams.max_buffered_bytes": (ADDED, ANY),
    "streams.max_readers_per_client": (ADDED, ANY),
    "streams.max_readers": (ADDED, ANY),
    "streams.write_timeout_s": (ADDED, ANY),
    "streams.retry_ms": (ADDED, ANY),
    "streams.retry_jitter_ms": (ADDED, ANY),
    "streams.on_disconnect": (ADDED, ANY),
    "streams.disconnect_delay_s": (ADDED, ANY),
    "streams.on_output_limit": (ADDED, ANY),
    "streams.result_text_bytes": (ADDED, ANY),
    "engine.url": (KEPT, "memory://"),
    "auth.tokens": (KEPT, []),
    "auth.anonymous": (KEPT, False),
    "auth.tenants": (12, ANY),
    "plugins.disabled": (ADDED, ()),
    "metrics.enabled": (ADDED, True),
    "metrics.token_sha256": (ADDED, ""),
    "logging.level": (ADDED, ANY),
    "logging.format": (ADDED, ANY),
    "logging.access": (ADDED, ANY),
}
"""Every key but those of one runtime; `queue.concurrency` 0 is twice the cores."""

RUNTIME_KEYS: Final[dict[str, Mark]] = {
    "entry": KEPT,
    "compile": KEPT,
    "compile_input": ADDED,
    "run": KEPT,
    "aliases": KEPT,
    "env": KEPT,
    "read_only": KEPT,
    "etc": ADDED,
    "sources": ADDED,
    "limits": ADDED,
    "version": ADDED,
}

BACKEND_TABLES: Final = ("bwrap", "firejail", "plain")
"""``[sandbox.NAME]``."""

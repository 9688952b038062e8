"""Make the built-in engine that the configuration names, with its limits and its store."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from streamer.config.schema import Config
from streamer.config.shares import Shares
from streamer.engine.interface import Engine
from streamer.engine.limits import (
    BlobLimits,
    QueueLimits,
    SessionLimits,
    TenantLimits,
    WebhookLimits,
)
from streamer.engine.memory.engine import MemoryEngine
from streamer.engine.memory.retention import RetentionLimits
from streamer.engine.redis.address import SCHEMES, parse_address
from streamer.engine.stores.address import FolderAddress, parse_store
from streamer.engine.stores.folder import FolderStore
from streamer.engine.stores.store import Store
from streamer.errors import ConfigError
from streamer.eventlog.spool import Spool
from streamer.sandbox.host.rootfs import SYSTEM

__all__ = ["configured_engine", "memory_engine", "redis_engine"]

TELL_S: Final = 10.0
"""How long a process may take to tell the engine what became of a webhook."""


def configured_engine(config: Config, shares: Shares) -> Engine:
    """Return the engine of `engine.url`, if it is a built-in one. Raises `ConfigError`."""
    scheme = config.engine.url.partition(":")[0]
    if scheme in SCHEMES:
        return redis_engine(config, shares)
    if config.engine.url != "memory://":
        raise ConfigError(
            f"engine.url: no plugin serves {scheme}://; the built-in engines are memory:// and "
            "redis://"
        )
    if config.engine.blobs_url:
        raise ConfigError(
            "engine.blobs_url: the engine memory:// keeps files in server.state_dir; set "
            "engine.url to a server that several services share"
        )
    return memory_engine(config, shares)


def _tenants(config: Config) -> dict[str, TenantLimits]:
    return {
        name: TenantLimits(
            running=own.max_running,
            waiting=own.max_waiting,
            waiting_bytes=own.max_waiting_bytes,
            sessions=own.max_sessions,
            blobs=own.max_blobs,
            blob_bytes=own.blob_bytes,
        )
        for name, own in config.auth.tenants.items()
    }


def _queue_limits(config: Config, shares: Shares) -> QueueLimits:
    return QueueLimits(
        tenants=_tenants(config),
        places=config.queue.places,
        max_waiting=config.queue.max_waiting,
        max_waiting_bytes=config.queue.max_waiting_bytes,
        max_waiting_per_client=shares.waiting,
        max_waiting_bytes_per_client=shares.waiting_bytes,
        max_running_per_client=shares.running,
        by_places=shares.by_places,
    )


def _blob_limits(config: Config, shares: Shares) -> BlobLimits:
    return BlobLimits(
        tenants=_tenants(config),
        total=config.engine.blob_bytes,
        tenant=shares.blob_bytes,
        number=config.engine.max_blobs,
        number_of_one=shares.blobs,
    )


def _session_limits(config: Config, shares: Shares) -> SessionLimits:
    return SessionLimits(
        tenants=_tenants(config),
        total=config.sessions.max,
        tenant=shares.sessions,
        ended=config.sessions.max_ended,
        ended_s=config.streams.retention_s,
    )


def _webhook_limits(config: Config, shares: Shares) -> WebhookLimits:
    webhooks = config.webhooks
    return WebhookLimits(
        pending=webhooks.max_pending,
        pending_bytes=webhooks.max_pending_bytes,
        pending_of_one=shares.webhooks,
        at_once_of_place=webhooks.max_per_host,
        at_once_of_one=shares.webhooks_at_once,
        # Who is still at it must not be overtaken: it takes the answer to tell of, too.
        lease_s=webhooks.timeout_s + TELL_S,
    )


def memory_engine(config: Config, shares: Shares) -> MemoryEngine:
    return MemoryEngine(
        queue=_queue_limits(config, shares),
        retention_s=config.streams.retention_s,
        retention=RetentionLimits(
            memory=config.streams.retention_bytes,
            log_memory=config.streams.log_memory_bytes,
            log=config.streams.log_bytes,
            on_full=config.streams.on_full,
        ),
        spool=Spool(config.streams.disk_bytes),
        blobs=_blob_limits(config, shares),
        sessions=_session_limits(config, shares),
        webhooks=_webhook_limits(config, shares),
        idempotency_s=config.queue.idempotency_s,
        max_idempotency_keys=config.queue.max_idempotency_keys,
    )


def redis_engine(config: Config, shares: Shares) -> Engine:
    address = parse_address(config.engine.url)
    try:
        # Only here: the packages are an extra.
        from streamer.engine.redis.engine import RedisEngine  # noqa: PLC0415
        from streamer.engine.redis.limits import RedisLimits  # noqa: PLC0415
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("redis", "hiredis"):
            raise
        raise ConfigError(
            f"engine.url: the package {package} is not installed: "
            'pip install "aiohttp-streamer[redis]"'
        ) from None
    limits = RedisLimits(
        queue=_queue_limits(config, shares),
        kept_bytes=config.streams.retention_bytes,
        # In the server all events are in memory, so one job must not take it all.
        log_bytes=min(config.streams.log_bytes, config.streams.retention_bytes // 4),
        blobs=_blob_limits(config, shares),
        sessions=_session_limits(config, shares),
        retention_s=config.streams.retention_s,
        idempotency_s=config.queue.idempotency_s,
        max_idempotency_keys=config.queue.max_idempotency_keys,
        lease_s=config.engine.lease_s,
        webhooks=_webhook_limits(config, shares),
    )
    return RedisEngine(address, limits, store=_store(config))


def _store(config: Config) -> Store | None:
    """Return where the bytes of files are, if not in the engine's server."""
    engine = config.engine
    address = parse_store(engine.blobs_url, engine.blobs_access_key, engine.blobs_secret_key)
    if address is None:
        return None
    if isinstance(address, FolderAddress):
        _check_hidden(address.path, config)
        return FolderStore(address)
    try:
        # Only here: the package is an extra.
        from streamer.engine.stores.s3 import S3Store  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "obstore":
            raise
        raise ConfigError(
            "engine.blobs_url: the package obstore is not installed: "
            'pip install "aiohttp-streamer[s3]"'
        ) from None
    return S3Store(address)


def _check_hidden(folder: Path, config: Config) -> None:
    """Raise `ConfigError` for a folder in what sandboxes show of the host."""
    shown = [f"/{name}" for name in SYSTEM]
    shown += [path for runtime in config.runtimes.values() for path in runtime.read_only]
    shown += [environment.path for environment in config.environments.values()]
    for path in shown:
        if folder.resolve().is_relative_to(Path(path.removeprefix("-")).resolve()):
            raise ConfigError(
                f"engine.blobs_url: {folder} is in {path.removeprefix('-')}, which jobs can read"
            )

"""The configuration as one frozen, strictly typed tree; each room is given its sections.

Each section is a class and each key a field with its default; config.toml says what every key
means. `streamer.config.load` builds the tree from file, environment and options.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal, Self, get_args, get_origin

import msgspec
from msgspec import Meta

from streamer.config.artifacts import ArtifactsConfig
from streamer.config.auth import (
    AuthConfig,
    MetricsConfig,
    TenantConfig,
    TokenConfig,
    check_rate,
    read_tenants,
)
from streamer.config.compat import CompatConfig
from streamer.config.environments import check_languages, read_environments
from streamer.config.presets import PRESETS
from streamer.config.projects import ProjectsConfig
from streamer.config.runtimes import extended
from streamer.config.section import (
    NotNegative,
    Port,
    Positive,
    Seconds,
    SecondsOrNone,
    Section,
    Text,
)
from streamer.config.sessions import SessionsConfig
from streamer.config.tree import check_keys, explain, merge, with_sizes
from streamer.config.webhooks import WebhooksConfig
from streamer.config.worker import WorkerConfig
from streamer.errors import ConfigError
from streamer.model.environment import Environment
from streamer.model.hosts import HostRule
from streamer.model.job import LEAST, MAX_CASES, MIB, MOST, Limits
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import Runtime, by_name
from streamer.model.scopes import SCOPES

__all__ = [
    "OF_PLUGINS",
    "ArtifactsConfig",
    "AuthConfig",
    "CompatConfig",
    "CompileCacheConfig",
    "Config",
    "EngineConfig",
    "LimitsConfig",
    "LoggingConfig",
    "MetricsConfig",
    "PluginsConfig",
    "ProjectsConfig",
    "QueueConfig",
    "Role",
    "SandboxConfig",
    "ServerConfig",
    "SessionsConfig",
    "StreamsConfig",
    "TenantConfig",
    "TokenConfig",
    "TracingConfig",
    "WebhooksConfig",
    "WorkerConfig",
    "is_loopback",
    "with_preset",
    "without_password",
]

ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^][\s/?#@:A-Z]+)(:[0-9]+)?")
"""An Origin header as browsers send it: in lower case and without a path (RFC 6454)."""
FRAMING: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|(\*\.)?[a-z0-9._-]+)(:[0-9]+)?")
"""A source of a Content-Security-Policy: nothing that could end it and begin another."""
PUBLIC_URL: Final = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?")
URL: Final = re.compile("[a-z][a-z0-9+.-]*://.*")
OF_PLUGINS: Final = ("sandbox", "compat")
"""The sections in which plugins have tables of their own."""


Role = Literal["all", "api", "worker"]
"""The part of the service in one process."""


class ServerConfig(Section, frozen=True):
    """``[server]``: where the service listens and how it stops."""

    role: Role = "all"
    host: Text = "127.0.0.1"
    port: Port = 8080
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    max_body_bytes: Positive = 8 * MIB
    bodies_bytes: Positive = 64 * MIB
    body_timeout_s: Seconds = 10.0
    max_connections: Positive = 25_000
    head_timeout_s: Seconds = 10.0
    drain_s: SecondsOrNone = 10.0
    allowed_origins: tuple[str, ...] = ()
    frame_ancestors: tuple[str, ...] = ()
    public_url: str = ""
    trusted_proxies: tuple[Text, ...] = ()
    rate_per_address: str = ""
    state_dir: str = ""

    def __post_init__(self) -> None:
        """Check that one body fits, and that browsers can send the allowed origins."""
        super().__post_init__()
        check_rate("server.rate_per_address", self.rate_per_address)
        if self.bodies_bytes < self.max_body_bytes:
            raise ConfigError(
                f"server.bodies_bytes: {self.bodies_bytes} has no room for one body of "
                f"server.max_body_bytes, {self.max_body_bytes}; raise the one or lower the other"
            )
        for origin in self.allowed_origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"server.allowed_origins: {origin!r} is not the origin of a web page; "
                    "write scheme, host and port only, such as https://example.org, or *"
                )
        for origin in self.frame_ancestors:
            if origin not in ("*", "self") and not FRAMING.fullmatch(origin):
                raise ConfigError(
                    f"server.frame_ancestors: {origin!r} is not the origin of a web page; write "
                    'scheme, host and port only, such as https://example.org, or "self", or *'
                )
        if self.public_url and not PUBLIC_URL.fullmatch(self.public_url):
            raise ConfigError(
                f"server.public_url: {self.public_url!r}: write the URL for clients, with a path "
                "and without a query, such as https://example.org/code"
            )
        for entry in self.trusted_proxies:
            try:
                ipaddress.ip_network(entry, strict=False)
            except ValueError:
                raise ConfigError(
                    f"server.trusted_proxies: {entry!r} is not an address or network; write it "
                    "like 127.0.0.1 or 10.0.0.0/8"
                ) from None


class SandboxConfig(Section, frozen=True):
    """``[sandbox]``: which backend runs jobs, and what callers may ask for."""

    preset: Literal["strict", "balanced", "dev"] = "balanced"
    backend: Text = "auto"
    allow: tuple[Text, ...] = ()
    allow_command: bool = False
    network: Literal["none", "allow-list", "open"] = "none"
    allow_hosts: tuple[Text, ...] = ()
    kill_grace_s: SecondsOrNone = 0.2
    linger_s: Annotated[float, Meta(ge=0, le=60)] = 0.25
    uid_base: Annotated[int, Meta(ge=1000, le=2**31)] = 60706
    path: Text = "/usr/local/bin:/usr/bin:/bin"
    cgroup: Text = "auto"
    cpu_weight: Annotated[int, Meta(ge=1, le=10_000)] = 12
    seccomp: Literal["standard", "strict"] = "standard"
    warm: bool = True
    fork_jobs: Annotated[int, Meta(ge=1, le=10_000)] = 200
    fork_age_s: Annotated[float, Meta(ge=1, le=86_400)] = 600.0
    require: tuple[Text, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = {}
    """The sub-tables ``[sandbox.NAME]``; the backends check them."""

    def __post_init__(self) -> None:
        """Check hosts and paths; a relative part of PATH would lie in the job's own folder."""
        super().__post_init__()
        for entry in self.allow_hosts:
            try:
                HostRule.parse(entry)
            except ConfigError as error:
                raise ConfigError(f"sandbox.allow_hosts: {error.message}") from None
        for folder in self.path.split(":"):
            if not PurePosixPath(folder).is_absolute():
                raise ConfigError(
                    f"sandbox.path: {folder!r}: write absolute folders between colons"
                )
        if self.cgroup not in ("auto", "off") and not PurePosixPath(self.cgroup).is_absolute():
            raise ConfigError(
                f"sandbox.cgroup: {self.cgroup!r}: write auto, off, or the absolute path of a group"
            )

    def __repr__(self) -> str:
        """Leave out the backends' options: they may hold secrets."""
        values = msgspec.structs.asdict(self) | {"options": sorted(self.options)}
        return f"SandboxConfig({', '.join(f'{key}={value!r}' for key, value in values.items())})"


class LimitsConfig(Section, frozen=True):
    """``[limits]``: what a job gets, and the most it may ask for."""

    default: Limits = Limits()
    max: Limits = Limits(
        wall_time_s=600.0,
        cpu_time_s=600.0,
        memory_bytes=2048 * MIB,
        processes=512,
        open_files=4096,
        file_bytes=640 * MIB,
        disk_bytes=1280 * MIB,
        output_bytes=1024 * MIB,
        stack_bytes=2048 * MIB,
    )
    max_cases: Annotated[int, Meta(ge=1, le=MAX_CASES)] = 100
    max_cases_s: SecondsOrNone = 0.0

    @property
    def all_cases_s(self) -> float:
        """The most that the time limits of a job's cases may be together."""
        usual = max(self.max_cases * self.default.wall_time_s, self.max.wall_time_s)
        return self.max_cases_s or usual

    def __post_init__(self) -> None:
        """Check that programs can run within each limit and no default exceeds its maximum."""
        super().__post_init__()
        for field in fields(Limits):
            default, ceiling = getattr(self.default, field.name), getattr(self.max, field.name)
            for name, value in (("default", default), ("max", ceiling)):
                if not 0 < value < math.inf:
                    raise ConfigError(
                        f"limits.{name}.{field.name}: {value} is not a positive number"
                    )
                least = getattr(LEAST, field.name)
                if value < least:
                    raise ConfigError(
                        f"limits.{name}.{field.name}: with {value} no program can run; "
                        f"{least} is the least"
                    )
                most = getattr(MOST, field.name)
                if value > most:
                    raise ConfigError(
                        f"limits.{name}.{field.name}: too large; {most:.0f} is the most"
                    )
            if default > ceiling:
                raise ConfigError(
                    f"limits: default.{field.name} is {default} and max.{field.name} only "
                    f"{ceiling}; lower the one or raise the other"
                )


class QueueConfig(Section, frozen=True):
    """``[queue]``: how many jobs run and wait, and the memory of those that wait.

    0 means "derived from the other values": see `places` and `streamer.config.shares.Shares`.
    """

    concurrency: Annotated[int, Meta(ge=0, le=10_000)] = 0
    max_waiting: Positive = 1000
    max_waiting_bytes: Positive = 256 * MIB
    max_per_client: NotNegative = 0
    max_running_per_client: NotNegative = 0
    idempotency_s: SecondsOrNone = 86_400.0
    max_idempotency_keys: NotNegative = 100_000

    @property
    def places(self) -> int:
        """The number of jobs that run at the same time."""
        return self.concurrency or 2 * (os.cpu_count() or 1)


class StreamsConfig(Section, frozen=True):
    """``[streams]``: how events are kept and sent."""

    heartbeat_s: Seconds = 30.0
    retention_s: Seconds = 600.0
    retention_bytes: Positive = 256 * MIB
    log_memory_bytes: Positive = 4 * MIB
    disk_bytes: NotNegative = 4096 * MIB
    log_bytes: Positive = 2048 * MIB
    on_full: Literal["drop", "wait"] = "drop"
    grace_s: SecondsOrNone = 1.0
    max_readers_per_job: Positive = 1000
    max_readers_per_client: NotNegative = 0
    max_readers: Positive = 20_000
    max_buffered_bytes: Positive = 256 * MIB
    write_timeout_s: Seconds = 30.0
    retry_ms: Annotated[int, Meta(ge=1, le=3_600_000)] = 1000
    retry_jitter_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 2000
    on_disconnect: Literal["keep", "cancel"] = "keep"
    disconnect_delay_s: SecondsOrNone = 10.0
    on_output_limit: Literal["kill", "truncate"] = "kill"
    result_text_bytes: Positive = MIB
    result_cache_bytes: NotNegative = 32 * MIB


class EngineConfig(Section, frozen=True):
    """``[engine]``: where jobs, logs and blobs live."""

    url: str = "memory://"
    blobs_url: str = ""
    blobs_access_key: str = ""
    blobs_secret_key: str = ""
    blob_bytes: NotNegative = 4096 * MIB
    blob_bytes_per_client: NotNegative = 0
    max_blobs: Positive = 100_000
    lease_s: Annotated[float, Meta(ge=3, le=45)] = 15.0

    def __post_init__(self) -> None:
        """Check that it is a URL; the engine checks the rest."""
        super().__post_init__()
        if not URL.fullmatch(self.url):
            raise ConfigError("engine.url: not a URL; write scheme://, such as memory://")

    def __repr__(self) -> str:
        values = msgspec.structs.asdict(self) | {
            "url": without_password(self.url),
            "blobs_url": without_password(self.blobs_url),
            "blobs_secret_key": "***" if self.blobs_secret_key else "",
        }
        return f"EngineConfig({', '.join(f'{key}={value!r}' for key, value in values.items())})"


class CompileCacheConfig(Section, frozen=True):
    """``[compile_cache]``: what compilers have made, kept for the next job with the program."""

    max_bytes: NotNegative = 256 * MIB


class PluginsConfig(Section, frozen=True):
    """``[plugins]``: installed plugins that are not loaded."""

    disabled: tuple[Text, ...] = ()


class LoggingConfig(Section, frozen=True):
    """``[logging]``: what the standalone service writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    access: bool = False


class TracingConfig(Section, frozen=True):
    """``[tracing]``: whether jobs are recorded as spans of OpenTelemetry."""

    enabled: bool = False


class Config(Section, frozen=True):
    """The whole configuration. Make a changed copy with `msgspec.structs.replace`."""

    server: ServerConfig = ServerConfig()
    sandbox: SandboxConfig = SandboxConfig()
    limits: LimitsConfig = LimitsConfig()
    runtimes: Mapping[str, Runtime] = msgspec.field(default_factory=lambda: dict(DEFAULT_RUNTIMES))
    environments: Mapping[str, Environment] = {}
    queue: QueueConfig = QueueConfig()
    worker: WorkerConfig = WorkerConfig()
    streams: StreamsConfig = StreamsConfig()
    projects: ProjectsConfig = ProjectsConfig()
    artifacts: ArtifactsConfig = ArtifactsConfig()
    sessions: SessionsConfig = SessionsConfig()
    webhooks: WebhooksConfig = WebhooksConfig()
    engine: EngineConfig = EngineConfig()
    compile_cache: CompileCacheConfig = CompileCacheConfig()
    auth: AuthConfig = AuthConfig()
    plugins: PluginsConfig = PluginsConfig()
    compat: CompatConfig = CompatConfig()
    metrics: MetricsConfig = MetricsConfig()
    logging: LoggingConfig = LoggingConfig()
    tracing: TracingConfig = TracingConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        by_name(self.runtimes)
        check_languages(self.environments, self.runtimes)
        self.worker.taken(self.runtimes)

    @classmethod
    def from_mapping(cls, tree: Mapping[str, Any]) -> Self:
        """Return the configuration of a nested mapping with the structure of config.toml.

        Missing keys have their defaults; a partial ``[runtimes.NAME]`` extends the built-in
        one. Raises `ConfigError` that names the key.
        """
        _check_sections(tree)
        tree = with_sizes(with_preset(tree))
        prepared = {name: _section(name, table) for name, table in tree.items()}
        tables = prepared.get("environments", {})
        if isinstance(tables, Mapping) and tables:
            state_dir = tree.get("server", {}).get("state_dir", "")
            of_text = state_dir if isinstance(state_dir, str) else ""
            prepared["environments"] = read_environments(tables, of_text)
        try:
            return msgspec.convert(prepared, cls)
        except msgspec.ValidationError as error:
            key, wrong = explain(error)
            raise ConfigError(f"{key}: {wrong}{_remedy(key)}") from None


def with_preset(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tree merged over the preset that it names; an unknown name changes nothing."""
    section = tree.get("sandbox")
    name = section.get("preset") if isinstance(section, Mapping) else None
    return merge(PRESETS[name], tree) if isinstance(name, str) and name in PRESETS else tree


def is_loopback(host: str) -> bool:
    """Tell whether a name or address is reachable from this machine only."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_password(url: str) -> str:
    """Return a URL with ``***`` in place of passwords and tokens, also those in its query."""
    scheme, separator, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    hidden = f"{scheme}{separator}{user}:***@{place}" if at and colon else url
    return re.sub(r"(?i)([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*", r"\1***", hidden)


def _check_sections(tree: Mapping[str, Any]) -> None:
    for key in tree.keys() - set(Config.__struct_fields__):
        for section in Config.__struct_fields__:
            if key in getattr(type(getattr(Config(), section)), "__struct_fields__", ()):
                raise ConfigError(f"{key}: unknown key; did you mean {section}.{key}?")
    check_keys(tree, Config.__struct_fields__)


def _section(name: str, table: object) -> object:
    """Check the keys of a section and complete its partial tables."""
    if name in ("runtimes", "environments"):
        table = check_keys(table, table if isinstance(table, Mapping) else (), name)
        return extended(table) if name == "runtimes" else table
    known = set(type(getattr(Config(), name)).__struct_fields__) - {"options"}
    if name in OF_PLUGINS and isinstance(table, Mapping):
        options = {
            key: value
            for key, value in table.items()
            if key not in known and isinstance(value, Mapping)
        }
        plain = {key: value for key, value in table.items() if key not in options}
        return {**check_keys(plain, known, name), "options": options}
    table = check_keys(table, known, name)
    if name == "auth" and "tenants" in table:
        return {**table, "tenants": read_tenants(table["tenants"])}
    if name == "limits":
        limits = [field.name for field in fields(Limits)]
        for which in {*table} - {"max_cases", "max_cases_s"}:
            check_keys(table[which], limits, f"limits.{which}")
        return merge(msgspec.to_builtins(LimitsConfig()), table)
    return table


def _remedy(key: str) -> str:
    """Return what may be written at a key, from its type or default."""
    section, _, name = key.partition("[")[0].partition(".")
    if key.startswith("auth.tokens[") and ".scopes" in key:
        return f"; known: {', '.join(SCOPES)}"
    if key.startswith("auth.tokens[") and key.endswith(".expires"):
        return "; write a time with its zone, such as 2030-12-31T00:00:00Z"
    if key.startswith("auth.tokens["):
        return '; write tenant and sha256, the latter from: printf %s "$TOKEN" | sha256sum'
    for field in msgspec.structs.fields(type(getattr(Config(), section))):
        if field.name == name and get_origin(field.type) is Literal:
            return f"; known: {', '.join(get_args(field.type))}"
        if field.name == name and isinstance(field.default, str | int | float):
            return f"; the default is {json.dumps(field.default)}"
    return ""

"""Hold the configuration: one frozen, strict tree, handed down in slices.

Each section is a class and each key a field, with its default here and its meaning in
config.toml, which documents every key. How the tree is put together from file, environment
and options is in `streamer.settings`.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import Meta, Struct

from streamer.errors import ConfigError
from streamer.jobs import Limits
from streamer.runtimes import DEFAULT_RUNTIMES, Runtime

__all__ = [
    "AuthConfig",
    "Config",
    "EngineConfig",
    "LimitsConfig",
    "LoggingConfig",
    "MetricsConfig",
    "PluginsConfig",
    "QueueConfig",
    "SandboxConfig",
    "ServerConfig",
    "StreamsConfig",
    "TokenConfig",
    "is_loopback",
]

MIB = 1024 * 1024

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
SecondsOrNone = Annotated[float, Meta(ge=0, le=1e9)]
HexDigest = Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")]


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the file; an unknown key is an error."""


class ServerConfig(Section, frozen=True):
    """``[server]``: where the service listens and how it stops."""

    host: str = "127.0.0.1"
    port: Port = 8080
    max_body_bytes: Positive = 8 * MIB
    body_timeout_s: Seconds = 10.0
    drain_s: SecondsOrNone = 10.0
    allowed_origins: tuple[str, ...] = ()
    state_dir: str = ""


class SandboxConfig(Section, frozen=True):
    """``[sandbox]``: which backend runs jobs, and what callers may ask for."""

    backend: str = "auto"
    allow: tuple[str, ...] = ()
    allow_command: bool = False
    allow_network: bool = False
    kill_grace_s: SecondsOrNone = 0.2
    uid_base: Annotated[int, Meta(ge=1000, le=2**31)] = 60706
    path: str = "/usr/local/bin:/usr/bin:/bin"
    options: dict[str, dict[str, Any]] = {}
    """The sub-tables ``[sandbox.NAME]``, for the backends to check."""


class LimitsConfig(Section, frozen=True):
    """``[limits.default]`` and ``[limits.max]``: what a job gets, and what it may ask for."""

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
    )


class QueueConfig(Section, frozen=True):
    """``[queue]``: how many jobs run and wait. 0: twice the cores; no bound of its own."""

    concurrency: NotNegative = 0
    max_waiting: Positive = 1000
    max_per_client: NotNegative = 0


class StreamsConfig(Section, frozen=True):
    """``[streams]``: how events are kept and sent."""

    heartbeat_s: Seconds = 30.0
    retention_s: Seconds = 600.0
    retention_bytes: Positive = 256 * MIB
    grace_s: SecondsOrNone = 1.0
    max_readers_per_job: Positive = 1000
    write_timeout_s: Seconds = 30.0
    on_output_limit: Literal["kill", "truncate"] = "kill"
    result_text_bytes: Positive = MIB


class EngineConfig(Section, frozen=True):
    """``[engine]``: where jobs and logs live."""

    url: str = "memory://"

    def __repr__(self) -> str:
        """Hide a password that the URL may hold."""
        return f"EngineConfig(url={without_password(self.url)!r})"


class TokenConfig(Section, frozen=True):
    """``[[auth.tokens]]``: the digest of a token and whom it belongs to."""

    tenant: str
    sha256: HexDigest

    def __repr__(self) -> str:
        """Hide the digest: it can be guessed at offline."""
        return f"TokenConfig(tenant={self.tenant!r}, sha256='***')"


class AuthConfig(Section, frozen=True):
    """``[auth]``: who may use the service; nobody is asked when there are no tokens."""

    tokens: tuple[TokenConfig, ...] = ()


class PluginsConfig(Section, frozen=True):
    """``[plugins]``: installed plugins that are not to be loaded."""

    disabled: tuple[str, ...] = ()


class MetricsConfig(Section, frozen=True):
    """``[metrics]``."""

    enabled: bool = True


class LoggingConfig(Section, frozen=True):
    """``[logging]``: what the stand-alone service writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    access: bool = False


class Config(Section, frozen=True):
    """The whole configuration. Change a part of one with `msgspec.structs.replace`."""

    server: ServerConfig = ServerConfig()
    sandbox: SandboxConfig = SandboxConfig()
    limits: LimitsConfig = LimitsConfig()
    runtimes: dict[str, Runtime] = msgspec.field(default_factory=lambda: dict(DEFAULT_RUNTIMES))
    queue: QueueConfig = QueueConfig()
    streams: StreamsConfig = StreamsConfig()
    engine: EngineConfig = EngineConfig()
    auth: AuthConfig = AuthConfig()
    plugins: PluginsConfig = PluginsConfig()
    metrics: MetricsConfig = MetricsConfig()
    logging: LoggingConfig = LoggingConfig()

    @classmethod
    def from_mapping(cls, tree: Mapping[str, Any]) -> Self:
        """Return the configuration of a nested mapping, as config.toml would hold it.

        What is left out has its default; a partial ``[runtimes.NAME]`` extends the built-in
        one. Raises `ConfigError` that names the key.
        """
        prepared = {**tree}
        prepared["sandbox"] = _gather_options(tree.get("sandbox", {}))
        prepared["limits"] = _fill_limits(tree.get("limits", {}))
        prepared.pop("runtimes", None)
        try:
            config = msgspec.convert(prepared, cls)
        except msgspec.ValidationError as error:
            raise ConfigError(_readable(str(error))) from None
        _check_limits(config.limits)
        return config


def is_loopback(host: str) -> bool:
    """Tell whether a name or address means this machine only."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_password(url: str) -> str:
    """Return a URL with ``***`` in place of its password."""
    scheme, separator, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}{separator}{user}:***@{place}" if at and colon else url


def _gather_options(section: object) -> object:
    """Put the sub-tables ``[sandbox.NAME]`` where `SandboxConfig` keeps them."""
    if not isinstance(section, Mapping):
        return section
    plain = {key: value for key, value in section.items() if not isinstance(value, Mapping)}
    options = {key: dict(value) for key, value in section.items() if isinstance(value, Mapping)}
    return {**plain, "options": options}


def _fill_limits(section: object) -> object:
    """Check the keys of a partial table and fill in the rest (dataclasses ignore extra keys)."""
    if not isinstance(section, Mapping):
        return section
    filled: dict[str, Any] = dict(section)
    defaults = LimitsConfig()
    known = {field.name for field in fields(Limits)}
    for name in ("default", "max"):
        given = section.get(name, {})
        if not isinstance(given, Mapping):
            continue
        for key in given:
            if key not in known:
                raise ConfigError(f"limits.{name}.{key}: unknown key; known are {', '.join(known)}")
        filled[name] = {**asdict(getattr(defaults, name)), **given}
    return filled


def _fill_runtimes(section: object) -> object:
    if not isinstance(section, Mapping):
        return section
    known = {field.name for field in fields(Runtime)}
    filled: dict[str, Any] = {name: asdict(runtime) for name, runtime in DEFAULT_RUNTIMES.items()}
    for name, given in section.items():
        if not isinstance(given, Mapping):
            raise ConfigError(f"runtimes.{name}: expected a table")
        for key in given:
            if key not in known - {"name"}:
                raise ConfigError(
                    f"runtimes.{name}.{key}: unknown key; known are {', '.join(sorted(known))}"
                )
        filled[name] = {**filled.get(name, {}), "name": name, **given}
    return filled


def _check_limits(limits: LimitsConfig) -> None:
    for field in fields(Limits):
        default, ceiling = getattr(limits.default, field.name), getattr(limits.max, field.name)
        for name, value in (("default", default), ("max", ceiling)):
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"limits.{name}.{field.name}: {value} is not a positive number")
        if default > ceiling:
            raise ConfigError(
                f"limits.default.{field.name}: {default} is over limits.max.{field.name}, {ceiling}; "
                "raise the one or lower the other"
            )


def _readable(message: str) -> str:
    """Turn msgspec's ``... - at `$.server.port``` into ``server.port: ...``."""
    text, separator, path = message.rpartition(" - at `")
    if not separator:
        return message
    key = path.rstrip("`").removeprefix("$").removeprefix(".")
    return f"{key}: {text}" if key else text

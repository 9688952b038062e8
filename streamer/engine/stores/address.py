"""Read ``engine.blobs_url``: a folder, or a bucket with what its server needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from streamer.errors import ConfigError

__all__ = ["FolderAddress", "S3Address", "parse_store"]

KEY: Final = "engine.blobs_url"
BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
ENDPOINT: Final = re.compile(r"https?://[^\s/?#@]+")
OPTIONS: Final = ("ca_certs", "endpoint", "region", "virtual_hosts")


@dataclass(frozen=True, slots=True)
class FolderAddress:
    """A folder that all services have at this path."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class S3Address:
    """A bucket; without `endpoint` it is Amazon's. The keys are those of the configuration."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    ca_certs: str = ""
    virtual_hosts: bool = False
    """Whether the bucket is in the name of the host instead of the path."""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)

    def __str__(self) -> str:
        place = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        return f"{place} at {self.endpoint}" if self.endpoint else place


def parse_store(
    url: str, access_key: str = "", secret_key: str = ""
) -> FolderAddress | S3Address | None:
    """Return the store that a URL means; None for an empty one. Raises `ConfigError`."""
    if bool(access_key) != bool(secret_key):
        raise ConfigError(
            "engine.blobs_access_key: give engine.blobs_secret_key too, or neither of them"
        )
    if not url:
        return None
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme == "file":
        if parts.netloc or query or parts.fragment or not parts.path.strip("/"):
            raise ConfigError(f"{KEY}: write file:///PATH/OF/THE/FOLDER")
        return FolderAddress(Path(unquote(parts.path)))
    if parts.scheme != "s3":
        raise ConfigError(f"{KEY}: unknown store; write file:///FOLDER or s3://BUCKET/PREFIX")
    if "@" in parts.netloc:
        raise ConfigError(
            f"{KEY}: write the keys to engine.blobs_access_key and engine.blobs_secret_key"
        )
    if not BUCKET.fullmatch(parts.netloc):
        raise ConfigError(f"{KEY}: {parts.netloc!r} is no name of a bucket")
    return _bucket(parts.netloc, parts.path.strip("/"), query, access_key, secret_key)


def _bucket(
    bucket: str, prefix: str, query: Mapping[str, str], access_key: str, secret_key: str
) -> S3Address:
    if unknown := query.keys() - set(OPTIONS):
        raise ConfigError(f"{KEY}: unknown option {min(unknown)!r}; known: {', '.join(OPTIONS)}")
    endpoint = query.get("endpoint", "").rstrip("/")
    if endpoint and not ENDPOINT.fullmatch(endpoint):
        raise ConfigError(
            f"{KEY}: endpoint: write scheme, host and port only, such as https://s3.example.org"
        )
    virtual_hosts = query.get("virtual_hosts", "false")
    if virtual_hosts not in ("true", "false"):
        raise ConfigError(f"{KEY}: virtual_hosts is true or false")
    return S3Address(
        bucket=bucket,
        prefix=unquote(prefix),
        endpoint=endpoint,
        region=query.get("region", ""),
        ca_certs=query.get("ca_certs", ""),
        virtual_hosts=virtual_hosts == "true",
        access_key=access_key,
        secret_key=secret_key,
    )

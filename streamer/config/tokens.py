"""The file of tokens: `streamer token` writes it, services that run read it again when it changes.

It has the SHA-256 of each token, which is enough: a token has 256 random bits. It is replaced as a
whole, by one process at a time, so whoever reads it finds the old file or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from streamer.errors import ConfigError
from streamer.model.scopes import DEFAULT_SCOPES, Scope

__all__ = [
    "StoredToken",
    "TokensFile",
    "changed_tokens",
    "is_generated",
    "new_token",
    "read_tokens",
    "stamp_of",
]

GENERATED: Final = re.compile("streamer_[0-9a-f]{64}")
MOST_BYTES: Final = 16 * 1024 * 1024
ID_CHARS: Final = 12

Time = Annotated[datetime, Meta(tz=True)]


class StoredToken(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A token without the token. Its `id` is how its digest begins."""

    id: str
    tenant: Annotated[str, Meta(min_length=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    created: Time
    name: str = ""
    expires: Time | None = None


class _Document(Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    tokens: tuple[StoredToken, ...]


class _Unread(Struct, frozen=True, forbid_unknown_fields=True):
    """A document whose tokens are read one after another, so that other threads run meanwhile."""

    version: Literal[1]
    tokens: tuple[Raw, ...]


@dataclass(frozen=True, slots=True)
class TokensFile:
    """What was read. `stamp` changes with the file; None if there was none.

    `exposed` is whether other accounts may read it.
    """

    tokens: tuple[StoredToken, ...] = ()
    stamp: tuple[int, ...] | None = None
    exposed: bool = False


def is_generated(token: str) -> bool:
    """Tell whether a token is of the form that `new_token` makes, so that nobody can guess it."""
    return GENERATED.fullmatch(token) is not None


def new_token(
    tenant: str,
    *,
    name: str = "",
    scopes: tuple[Scope, ...] = DEFAULT_SCOPES,
    expires: datetime | None = None,
) -> tuple[str, StoredToken]:
    """Return a new token, and what is stored of it."""
    token = f"streamer_{secrets.token_hex(32)}"
    digest = hashlib.sha256(token.encode()).hexdigest()
    now = datetime.now(UTC).replace(microsecond=0)
    return token, StoredToken(digest[:ID_CHARS], tenant, digest, scopes, now, name, expires)


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes whenever a file, its owner or its mode does."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_tokens(path: Path) -> TokensFile:
    """Return what is in the file, which need not exist.

    Raises `ConfigError` if it cannot be read, which is caused by an OSError, is not what `streamer
    token` writes, or can be written by others.
    """
    try:
        # A pipe must not hold the service.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return TokensFile()
    except OSError as error:
        raise ConfigError(f"auth.tokens_file: {path}: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        _check_owner(path, status)
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"auth.tokens_file: {path}: {error.strerror}") from error
    finally:
        os.close(fd)
    if len(data) > MOST_BYTES:
        raise ConfigError(f"auth.tokens_file: {path} has more than {MOST_BYTES} bytes")
    try:
        read = msgspec.json.Decoder(StoredToken).decode
        tokens = tuple([read(one) for one in msgspec.json.decode(data, type=_Unread).tokens])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"auth.tokens_file: {path} is not what `streamer token` writes: {error}"
        ) from None
    if len({token.sha256 for token in tokens}) < len(tokens):
        raise ConfigError(f"auth.tokens_file: {path} has one token twice")
    return TokensFile(tokens, stamp_of(status), bool(status.st_mode & 0o044))


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Raise `ConfigError` for a file in which others could let themselves in."""
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"auth.tokens_file: {path} is not a file")
    own = os.geteuid()
    if status.st_mode & 0o022:
        raise ConfigError(
            f"auth.tokens_file: other accounts may write {path}: chmod 600 {path}, and look what "
            "is in it"
        )
    if own and status.st_uid not in (0, own):
        raise ConfigError(f"auth.tokens_file: {path} belongs to another account, {status.st_uid}")


@contextmanager
def changed_tokens(path: Path) -> Iterator[list[StoredToken]]:
    """Lend the list of tokens, to be changed; at the end it is written if it was, without an error.

    Others who change it wait meanwhile. Raises what `read_tokens` does, and OSError.
    """
    path = path.resolve()  # a link stays one
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        before = read_tokens(path).tokens
        tokens = [*before]
        yield tokens
        if tokens != [*before]:
            _replace(path, folder, tokens)
    finally:
        os.close(folder)


def _replace(path: Path, folder: int, tokens: list[StoredToken]) -> None:
    document = msgspec.json.format(msgspec.json.encode(_Document(1, tuple(tokens))), indent=2)
    fd, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # with mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            if os.geteuid() == 0:
                # The service may have another account: that of the file, or of its folder.
                status, readable = os.fstat(folder), 0
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    readable = status.st_mode & stat.S_IRGRP  # as its group may be the service's
                os.fchown(fd, status.st_uid, status.st_gid)
                os.fchmod(fd, 0o600 | readable)
            file.write(document + b"\n")
            file.flush()
            os.fsync(fd)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink()
        raise
    os.fsync(folder)

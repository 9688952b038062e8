"""The host's own users, sessions and record of runs, in SQLite."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SESSION_S = 8 * 3600
TABLES = """
CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, salt BLOB, hash BLOB, staff INTEGER);
CREATE TABLE IF NOT EXISTS sessions (hash TEXT PRIMARY KEY, user TEXT, expires REAL);
CREATE TABLE IF NOT EXISTS runs (job TEXT PRIMARY KEY, user TEXT, at REAL, verdict TEXT);
"""


@dataclass(frozen=True)
class User:
    name: str
    staff: bool


class Accounts:
    """Each call opens the file anew: it is short, and safe in any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as database:
            database.executescript("PRAGMA journal_mode = WAL;" + TABLES)

    def add(self, name: str, password: str, *, staff: bool = False) -> None:
        salt = secrets.token_bytes(16)
        with self._open() as database:
            row = (name, salt, _hash(password, salt), staff)
            database.execute("INSERT OR REPLACE INTO users VALUES (?, ?, ?, ?)", row)

    def login(self, name: str, password: str) -> str | None:
        """Return the secret of a new session, or None for a wrong name or password."""
        with self._open() as database:
            query = "SELECT salt, hash FROM users WHERE name = ?"
            # As long for a name that is unknown, so that nobody finds out which names are there.
            salt, known = database.execute(query, (name,)).fetchone() or (b"", b"")
            if not hmac.compare_digest(_hash(password, salt), known):
                return None
            secret = secrets.token_urlsafe(32)
            row = (_digest(secret), name, time.time() + SESSION_S)
            database.execute("INSERT INTO sessions VALUES (?, ?, ?)", row)
            database.execute("DELETE FROM sessions WHERE expires < ?", (time.time(),))
        return secret

    def logout(self, secret: str) -> None:
        with self._open() as database:
            database.execute("DELETE FROM sessions WHERE hash = ?", (_digest(secret),))

    def user_of(self, secret: str) -> User | None:
        with self._open() as database:
            query = (
                "SELECT name, staff FROM sessions JOIN users ON user = name "
                "WHERE sessions.hash = ? AND expires > ?"
            )
            row = database.execute(query, (_digest(secret), time.time())).fetchone()
        return None if row is None else User(row[0], bool(row[1]))

    def note_run(self, job: str, user: str) -> None:
        with self._open() as database:
            # It may be over, and its verdict noted, before this is.
            query = (
                "INSERT INTO runs VALUES (?1, ?2, ?3, '') "
                "ON CONFLICT (job) DO UPDATE SET user = ?2, at = ?3"
            )
            database.execute(query, (job, user, time.time()))

    def note_verdict(self, job: str, user: str, verdict: str) -> None:
        with self._open() as database:
            query = (
                "INSERT INTO runs VALUES (?1, ?2, ?3, ?4) "
                "ON CONFLICT (job) DO UPDATE SET verdict = ?4"
            )
            database.execute(query, (job, user, time.time(), verdict))

    def runs(self, user: str) -> list[dict[str, str]]:
        with self._open() as database:
            query = "SELECT job, verdict FROM runs WHERE user = ? ORDER BY at DESC LIMIT 20"
            rows = database.execute(query, (user,)).fetchall()
        return [{"job": job, "verdict": verdict} for job, verdict in rows]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path)
        try:
            with database:  # a transaction
                yield database
        finally:
            database.close()


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

"""A signed ticket that tells the service who a user of your application is.

Your application and the service share a key. The application makes a ticket when somebody logs in,
and sets it as a cookie; the service, a process of its own behind the same host name, checks it.
It needs the standard library only, so copy it.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

COOKIE = "streamer_ticket"
LIFETIME_S = 3600
SHORTEST_KEY = 32


def ticket(user: str, key: bytes, lifetime_s: float = LIFETIME_S) -> str:
    """Return a ticket for a user. Whoever has it is that user until it expires."""
    if len(key) < SHORTEST_KEY:
        raise ValueError(f"the key of the tickets must have {SHORTEST_KEY} bytes or more")
    name = urlsafe_b64encode(user.encode()).decode()
    claim = f"{name}.{int(time.time() + lifetime_s)}"
    return f"{claim}.{_signature(claim, key)}"


def user_of(text: str, key: bytes) -> str | None:
    """Return whose ticket it is; None if it is not ours, was changed or has expired."""
    claim, _, signature = text.rpartition(".")
    # Before anything in it is looked at.
    if not hmac.compare_digest(_signature(claim, key).encode(), signature.encode()):
        return None
    name, _, expires = claim.partition(".")
    if time.time() >= int(expires):
        return None
    return urlsafe_b64decode(name).decode()


def set_ticket(response: Any, user: str, key: bytes, *, secure: bool = True) -> None:
    """Set the cookie on a response of FastAPI, Starlette, Django or Flask.

    Its path is that of the service, so that it is sent nowhere else; `secure=False` is for plain
    HTTP while you develop.
    """
    response.set_cookie(
        COOKIE,
        ticket(user, key),
        max_age=LIFETIME_S,
        path="/code/",
        secure=secure,
        httponly=True,
        samesite="Lax",
    )


def _signature(claim: str, key: bytes) -> str:
    return hmac.new(key, claim.encode(), hashlib.sha256).hexdigest()

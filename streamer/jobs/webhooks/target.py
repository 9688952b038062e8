"""Decide where webhooks may be sent to.

The address of a host is not known here: it is checked at each attempt, by who connects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from streamer.errors import Forbidden, InvalidJob
from streamer.model.hosts import DEFAULT_PORTS, Place, address_refusal
from streamer.model.webhook import Webhook

__all__ = ["Targets", "place_of"]

MAX_URL_CHARS: Final = 2048
# Visible ASCII: what parsers read differently (backslashes, tabs, a user before @) is not there.
URL: Final = re.compile(r"(https?)://([0-9A-Za-z._:\[\]-]+)(?:[/?][!$-\[\]_a-z~%]*)?")
FIRST_FREE_PORT: Final = 1024
"""Below it are services that do not expect HTTP, such as mail."""
PORTS: Final = {"http": 80, "https": 443}
EVENTS: Final = ("complete", "error")


def place_of(url: str) -> Place:
    """Return the host and port of a URL. Raises ValueError with what is wrong with it."""
    if len(url) > MAX_URL_CHARS:
        raise ValueError(f"a URL has at most {MAX_URL_CHARS} characters")
    found = URL.fullmatch(url)
    if found is None:
        raise ValueError(
            "not a URL such as https://example.org/ended, in ASCII and without a user, a password "
            "or a fragment"
        )
    return Place.parse(found[2], PORTS[found[1]])


class Targets:
    """What the configuration allows; entries of `allow_hosts` may be anywhere, and speak HTTP."""

    def __init__(self, allow_hosts: Iterable[str]) -> None:
        self._allowed = frozenset(Place.parse(entry, 0) for entry in allow_hosts)

    def allows(self, place: Place) -> bool:
        """Tell whether the operator has listed a host: its address is not checked then."""
        return place in self._allowed or Place(place.host, 0) in self._allowed

    def checked(self, webhook: Webhook) -> Webhook:
        """Return it with its place. Raises `InvalidJob`, or `Forbidden` if it is not allowed."""
        if not webhook.events or len({*webhook.events}) != len(webhook.events):
            raise InvalidJob("name each event once, and one at least", path="$.webhook.events")
        try:
            place = place_of(webhook.url)
        except ValueError as error:
            raise InvalidJob(str(error), path="$.webhook.url") from None
        if not self.allows(place) and (why := _refusal(webhook.url, place)):
            raise Forbidden(f"{why} (webhooks.allow_hosts)", path="$.webhook.url")
        return replace(webhook, place=str(place))


def _refusal(url: str, place: Place) -> str:
    if not url.startswith("https:"):
        return "a webhook needs https"
    if place.port not in DEFAULT_PORTS and place.port < FIRST_FREE_PORT:
        return f"port {place.port} is not for webhooks"
    if place.address is not None and (kind := address_refusal(place.address)):
        return f"the address is {kind}"
    return ""

"""Run every attack in each backend that comes with streamer."""

from __future__ import annotations

from sandboxes.bwrap import Bwrap
from sandboxes.firejail import Firejail
from sandboxes.plain import Plain
from streamer.testing import EscapeSuite
from tests.conftest import required_backends


class TestPlain(EscapeSuite):
    backend = Plain
    required = "plain" in required_backends()


class TestBwrap(EscapeSuite):
    backend = Bwrap
    required = "bwrap" in required_backends()


class TestFirejail(EscapeSuite):
    backend = Firejail
    required = "firejail" in required_backends()

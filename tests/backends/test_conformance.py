"""Run the shipped conformance suite on the built-in backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from sandboxes.bwrap import Bwrap
from sandboxes.firejail import Firejail
from sandboxes.plain import Plain
from streamer.testing import ConformanceSuite
from tests.conftest import required_backends


class TestPlain(ConformanceSuite):
    backend = Plain
    required = "plain" in required_backends()


class TestBwrap(ConformanceSuite):
    backend = Bwrap
    required = "bwrap" in required_backends()


@pytest.mark.slow
class TestBwrapWithoutGroups(ConformanceSuite):
    backend = Bwrap
    config: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sandbox": {"cgroup": "off"}}
    required = "bwrap" in required_backends()


class TestFirejail(ConformanceSuite):
    backend = Firejail
    required = "firejail" in required_backends()

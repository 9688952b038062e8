"""The promises of every backend: both suites need nothing but pytest."""

from __future__ import annotations

from typing import ClassVar

from streamer_boxed import Boxed

from streamer.testing import ConformanceSuite, EscapeSuite


class TestConformance(ConformanceSuite):
    backend = Boxed
    options: ClassVar = {"tmp_bytes": 16 * 1024 * 1024}


class TestEscape(EscapeSuite):
    backend = Boxed

"""Inits whose socket the test itself has, and interpreters that run code of the operator's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamer.sandbox.shape import Program, Shape
from tests.sandbox.forking import ENV, SHAPE, Customize, program
from tests.sandbox.init_peer import Init, served_init


@pytest.fixture
def init(tmp_path: Path) -> Iterator[Init]:
    """An init that is served by the test, not as pid 1."""
    with served_init(tmp_path) as served:
        yield served


@pytest.fixture
def customized() -> Iterator[Customize]:
    """Return a function that lets the operator's packages run code when Python starts."""
    if os.geteuid() != 0:
        pytest.skip("only root may write to /opt, and a sandbox has its own /tmp")
    with tempfile.TemporaryDirectory(dir="/opt") as folder:

        def customize(code: str) -> tuple[Program, Shape]:
            Path(folder).chmod(0o755)
            Path(folder, "sitecustomize.py").write_text(code)
            what = program(env={**ENV, "PYTHONPATH": folder})
            return what, replace(SHAPE, read_only=(folder,))

        yield customize

"""What the page of symptoms quotes is what the code says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ANY = "…"
QUOTED = re.compile(r"`([^`]{6,})`")


def texts() -> list[str]:
    """Return the texts in the code, with ``…`` for each value that is put into one."""
    found = []
    for folder in ("streamer", "sandboxes"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.is_relative_to(ROOT / "streamer" / "testing"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [
                        str(part.value) if isinstance(part, ast.Constant) else ANY
                        for part in node.values
                    ]
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"%[sdr]|%g", ANY, node.value))
    return found


TEXTS = texts()


def said(message: str) -> bool:
    """Return whether some text of the code has all parts of a message, in their order."""
    form = re.compile(".*?".join(re.escape(part) for part in message.split(ANY)), re.DOTALL)
    return any(form.search(text) for text in TEXTS)


def messages() -> list[str]:
    """Return what is quoted as a message: in bold as a symptom, or with a ``…`` in it."""
    quoted = [
        message
        for line in PAGE.splitlines()
        for bold in re.findall(r"\*\*(.*?)\*\*", line)
        for message in QUOTED.findall(bold)
    ]
    return [message for message in quoted if " " in message] + [
        message for message in QUOTED.findall(PAGE) if ANY in message and message not in quoted
    ]


def test_there_are_messages() -> None:
    assert len(messages()) >= 20
    assert not said("no such message … is anywhere")
    assert not said("the service has more … no sandbox works on this host")


@pytest.mark.parametrize("message", messages())
def test_the_code_says_it(message: str) -> None:
    assert said(message)


def test_every_setting_that_is_named_is_one() -> None:
    template = (ROOT / "config.toml").read_text()
    sections = set(re.findall(r"^\[([a-z_.]+)\]", template, re.MULTILINE))
    named = {
        setting
        for setting in re.findall(r"`([a-z_.]+\.[a-z_]+)(?: = [^`]+)?`", PAGE)
        if setting.rpartition(".")[0] in sections and setting not in sections
    }
    assert len(named) >= 10
    for setting in named:
        section, _, key = setting.rpartition(".")
        body = template.partition(f"\n[{section}]\n")[2].partition("\n[")[0]
        assert re.search(rf"^#?\s*{key} = ", body, re.MULTILINE), setting

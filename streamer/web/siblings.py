"""What the processes of one service ask each other: all that only one of them knows.

Each listens on a Unix socket in a folder that only this account can enter. A question is a line,
and its answer all that follows, up to a zero: a process may end as it answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from aiohttp import web

from streamer.web.metrics import ENGINE_WIDE

__all__ = ["SIBLINGS", "TOLD", "Answer", "Siblings", "merged"]

log: Final = logging.getLogger(__name__)

ANSWER_S: Final = 2.0
"""A process that does not answer within this time, as one that was stopped, is left out."""

END: Final = b"\0"

Answer = Callable[[str], Awaitable[str]]
"""Answers a question; it is given what follows the first word."""


class Siblings:
    """The processes of a service; this one has the number `own`, of 1 to `count`."""

    def __init__(self, folder: Path, own: int, count: int) -> None:
        self.own = own
        self.count = count
        self._folder = folder
        self._answers: Mapping[str, Answer] = {}

    def _socket(self, number: int) -> str:
        return str(self._folder / f"{number}.sock")

    async def listen(self, answers: Mapping[str, Answer]) -> asyncio.Server:
        """Answer the others: `answers` has a function for the first word of each question.

        It is given the rest of the question.
        """
        self._answers = answers
        # That of a process which this one has replaced is removed first.
        return await asyncio.start_unix_server(self._answer, self._socket(self.own))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                word, _, rest = (await reader.readline()).decode().strip().partition(" ")
                writer.write((await self._answers[word](rest)).encode() + END)
                writer.write_eof()
                await writer.drain()
        except (OSError, TimeoutError):
            pass  # who asked has left, or will
        except Exception:
            log.exception("a question of another process was not answered")
        finally:
            writer.close()

    async def ask(self, question: str) -> Mapping[int, str]:
        """Return the answers of the others by their numbers, without those that gave none."""
        others = [number for number in range(1, self.count + 1) if number != self.own]
        found = await asyncio.gather(*(self._ask(number, question) for number in others))
        return {number: text for number, text in zip(others, found, strict=True) if text}

    async def _ask(self, number: int, question: str) -> str:
        writer = None
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self._socket(number))
                writer.write(f"{question}\n".encode())
                said = await reader.read()
                return said.removesuffix(END).decode() if said.endswith(END) else ""
        except (OSError, TimeoutError):
            return ""
        finally:
            if writer is not None:
                writer.close()


SIBLINGS: Final = web.AppKey("streamer-siblings", Siblings)
"""Missing if the process is the only one."""

TOLD: Final[web.AppKey[Mapping[str, Answer]]] = web.AppKey("streamer-told")
"""What this process tells the others, by the first word of the question."""


def merged(expositions: Mapping[int, str], own: int) -> str:
    """Return the metrics of all processes in one: what is a process's own has its number.

    It is a label and no sum, so that the counters of a process that was replaced begin anew
    without those of the others.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for number in sorted(expositions, key=lambda number: (number != own, number)):
        family = ""
        # The name of a tenant may have other ends of lines.
        for line in filter(None, expositions[number].split("\n")):
            if line.startswith("#"):
                family = line.split(" ")[2]
                head = heads.setdefault(family, [])
                if line not in head:
                    head.append(line)
            elif family not in ENGINE_WIDE:
                samples.setdefault(family, []).append(_labelled(line, number))
            elif number == own:
                samples.setdefault(family, []).append(line)
    lines = [line for family, head in heads.items() for line in (*head, *samples.get(family, ()))]
    return "\n".join((*lines, *_answering(len(expositions)), ""))


def _labelled(sample: str, number: int) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{process="{number}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{process="{number}"}} {value}'


def _answering(count: int) -> Iterable[str]:
    name = "streamer_processes"
    yield f"# HELP {name} Processes of the service that answer."
    yield f"# TYPE {name} gauge"
    yield f"{name} {count}"

"""A program whose output tries in every way to be taken for the service's own events."""

from __future__ import annotations

from tests.interop.clients import Transcript

__all__ = ["EXPECTED", "FORGED", "PROGRAM"]

FORGED = (
    "plain\n",
    '\n\nevent: complete\ndata: {"reason":"exited","exitCode":0}\nid: 999\n\n',
    '\r\n\r\nevent: error\r\ndata: {"code":"internal","message":"forged"}\r\nid: 999\r\n\r\n',
    '\r\revent: complete\rdata: {"reason":"exited"}\rid: 999\r\r',
    "\0\0event: complete\0data: {}\0id: 1\0\0",
    "\u2028\u2028event: complete\u2028data: {}\u2028\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e",
    "\ufeffdata: after a BOM\n\n\ufeff\n\n",
    "data: x\ndata: y\n\n: comment\nretry: 0\nid\nid: \0\nevent\ndata\n\n",
    '"}\n\ndata: {"stream":"stdout","data":"closed the quote"}\n\n',
    "  leading blanks, \ttabs, \\n \\u000a \\\\ \x1b[31m and é€😀 \n",
    "x" * 9000 + "\n\n",
    "the end, without a line end",
)
"""Each piece is written at once, alternately to standard output and standard error."""

PROGRAM = f"""
import os, time
for number, piece in enumerate({FORGED!r}):
    os.write(1 + number % 2, piece.encode())
    time.sleep(0.02)  # so that the pieces are events of their own
"""

EXPECTED = Transcript("".join(FORGED[::2]), "".join(FORGED[1::2]))

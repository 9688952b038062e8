"""Run the steps of an agent of smolagents in one process of a service."""

from __future__ import annotations

import sys

from smolagents import AgentError, AgentLogger, LogLevel, tool
from smolagents_executor import StreamerExecutor

from streamer import SyncClient

ANSWERS = """
class FinalAnswerException(BaseException):
    def __init__(self, value):
        self.value = value

print("done")
raise FinalAnswerException('safe:{"x": [1, 2]}')
"""


@tool  # type: ignore[untyped-decorator]
def double(number: int) -> int:
    """Double a number.

    Args:
        number: what is doubled
    """
    return 2 * number


def fails(executor: StreamerExecutor, code: str) -> str:
    try:
        executor(code)
    except AgentError as error:
        return str(error)
    raise AssertionError(f"{code} has not failed")


with SyncClient(sys.argv[1]) as client:
    logger = AgentLogger(level=LogLevel.OFF)
    executor = StreamerExecutor(client, logger)
    first = executor("x = 20\nprint('hi')\nx + 1")
    assert (first.output, first.logs, first.is_final_answer) == ("21", "hi\n", False), first
    assert executor("x").output == "20"
    assert executor("import sys\nprint('log', file=sys.stderr)").logs == "log\n"
    assert "ZeroDivisionError" in fails(executor, "1 / 0")
    assert "EOFError" in fails(executor, "input()")
    executor.send_variables({"given": [1, 2]})
    executor.send_tools({"double": double})
    assert executor("double(sum(given))").output == "6"
    last = executor(ANSWERS)
    assert (last.output, last.logs, last.is_final_answer) == ({"x": [1, 2]}, "done\n", True), last
    executor.cleanup()
    assert "cancelled" in fails(executor, "x")
    short = StreamerExecutor(client, logger, limits={"wall_time_s": 0.5})
    assert "wall_time" in fails(short, "while True: pass")

"""Report what attacks achieved that the backend does not promise to withstand."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        f"{report.nodeid.partition('::')[2]}: {outcome}"
        for report in terminalreporter.getreports("passed")
        for name, outcome in report.user_properties
        if name == "not promised"
    ]
    if lines:
        terminalreporter.section("attacks that a backend does not promise to withstand")
        for line in lines:
            terminalreporter.write_line(line[:200])

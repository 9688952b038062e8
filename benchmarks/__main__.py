"""Measure the service beside a reference server and bare commands: ``make bench``.

    python -m benchmarks [--rounds N] [SUITE...]

Writes docs/performance.md. What a suite measured replaces that row only, so that a part can be run
alone; docs/performance/figures.json keeps the numbers.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from benchmarks import commands, judging, projects, runs, streams
from benchmarks.figures import Figure, Report, Row
from benchmarks.report import write
from benchmarks.servers import NODE_MODULES

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "performance.md"
NUMBERS: Final = ROOT / "docs" / "performance" / "figures.json"
OPEN_FILES: Final = 20_000
SUITES: Final[Mapping[str, Callable[[int], Coroutine[Any, Any, list[Figure]]]]] = {
    "latency": runs.latency,
    "start": runs.start,
    "startup": commands.startup,
    "throughput": runs.throughput,
    "delay": streams.delay,
    "flood": streams.flooding,
    "fanout": streams.fanout,
    "idle": streams.idle,
    "slow": streams.slow,
    "growth": runs.growth,
    "fairness": runs.fairness,
    "projects": projects.starting,
    "judging": judging.judging,
}


def said(*argv: str) -> str:
    """Return the first line that a command says."""
    found = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT).stdout
    return found.partition("\n")[0].strip()


def machine(rounds: int) -> dict[str, str]:
    """Return what the figures depend on."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    node = {
        name: json.loads((NODE_MODULES / "node_modules" / name / "package.json").read_text())
        for name in ("express", "better-sse")
    }
    changed = (
        "" if not said("git", "status", "--porcelain", "streamer", "sandboxes") else " changed"
    )
    return {
        "streamer": said("git", "rev-parse", "--short", "HEAD") + changed,
        "rounds": str(rounds),
        "cores": f"{os.cpu_count()} ({model[1] if model else platform.machine()})",
        "user": "root" if os.getuid() == 0 else "ordinary",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "uvloop": version("uvloop"),
        "Node": said("node", "--version"),
        "Express": node["express"]["version"],
        "better-sse": node["better-sse"]["version"],
        "bubblewrap": said("bwrap", "--version").rpartition(" ")[2],
    }


def rounded(figure: Figure) -> Figure:
    """Return the figure with four digits, so that the file stays small."""
    values = {
        target: [float(f"{value:.4g}") for value in found]
        for target, found in figure.values.items()
    }
    return msgspec.structs.replace(figure, values=values)


def measure(name: str, rounds: int, report: Report) -> None:
    """Run a suite and put what it measured in the report."""
    facts, began = machine(rounds), time.monotonic()
    figures = uvloop.run(SUITES[name](rounds))
    report.rows[name] = Row(
        date=dt.datetime.now(dt.UTC).strftime("%d %B %Y, %H:%M UTC"),
        seconds=round(time.monotonic() - began, 1),
        machine=facts,
        figures=[rounded(figure) for figure in figures],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument("--rounds", type=int, default=3, help="how often; 1 for a glance")
    parser.add_argument("--only-report", action="store_true", help="measure nothing")
    options = parser.parse_args()
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(SUITES)}")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, OPEN_FILES), limit))
    gc.freeze()
    NUMBERS.parent.mkdir(exist_ok=True)
    report = Report()
    if NUMBERS.exists():
        report = msgspec.json.decode(NUMBERS.read_bytes(), type=Report)
    failed = 0
    for name in () if options.only_report else options.suites or SUITES:
        print(f"bench: {name}", flush=True)
        try:
            measure(name, options.rounds, report)
        except (OSError, RuntimeError, TimeoutError) as failure:
            print(f"bench: {name} failed: {failure!r}", file=sys.stderr, flush=True)
            failed += 1
            continue
        NUMBERS.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
        write(report, PAGE)
    write(report, PAGE)
    print(f"bench: wrote {PAGE.relative_to(ROOT)}")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())

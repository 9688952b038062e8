"""Time a job, and the server, while another job attacks the host, or builds in parallel.

    python -m benchmarks.neighbours [ROUNDS] [streamer serve's options]

A fixed program computes and prints, alone and beside each attack, in turns, so that the ratio is
right even if the machine's speed drifts. An attack that ends is started again until the program
has ended. The ratios compare medians with those without an attack in the same run. `own s`
is how long the other job took itself: what a build pays for its neighbour.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from aiohttp import ClientSession

from streamer import Client

NEIGHBOUR: Final = """
for part in range(20):
    total = 0
    for number in range(400_000):
        total += number * number % 7
    print(part, total, flush=True)
"""
FORKS: Final = """
import os
while True:
    try:
        if os.fork() == 0:
            SESSION
    except OSError:
        pass
"""
THREADS: Final = """
#include <pthread.h>
static void *spin(void *unused) { for (;;); return unused; }
int main(void) {
    pthread_t thread;
    for (int i = 0; i < 50; i++) pthread_create(&thread, 0, spin, 0);
    spin(0);
}
"""
BUILD: Final = """
cat > build.mk <<'END'
parts := $(foreach n,1 2 3 4 5 6,$(n)a.o $(n)b.o $(n)c.o $(n)d.o)
all: $(parts) ; @:
%.o: ; @seq 60 | sed 's/.*/int f&(int n) { int t = 0; while (n--) t += n % (n | &); return t; }/' \
    > $*.c && cc -O2 -c $*.c
END
exec make -s -f build.mk -j JOBS
"""
ATTACKS: Final = {
    "fork bomb": FORKS.replace("SESSION", "pass"),
    "fork bomb, sessions": FORKS.replace("SESSION", "os.setsid()"),
    "thread bomb": THREADS,
    "memory bomb": "kept = []\nwhile True:\n    kept.append(bytearray(10_000_000))",
    "disk fill": """
number = 0
while True:
    number += 1
    try:
        with open(f"file{number}", "wb") as file:
            file.write(bytes(1_000_000))
    except OSError:
        pass
""",
    "output flood": "while True:\n    print('x' * 1000)",
    "make -j cores": BUILD.replace("JOBS", str(os.cpu_count())),
    "make -j 8": BUILD.replace("JOBS", "8"),
}
LANGUAGES: Final = {THREADS: "c", **dict.fromkeys(list(ATTACKS.values())[-2:], "bash")}
LIMITS: Final = {"cpuTimeS": 5.0, "wallTimeS": 30.0}
LIMITS_OF_BUILDS: Final = {"cpuTimeS": 60.0, "wallTimeS": 60.0}
LIMITS_OF_NEIGHBOUR: Final = {"wallTimeS": 300.0}
TAKES_HOLD_S: Final = 0.5
ATTACK_LOOK_S: Final = 0.1
HEALTH_EVERY_S: Final = 0.02
START_TIMEOUT_S: Final = 30.0


class Measured:
    """The measurements beside one attack, or beside none."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.health: list[float] = []
        self.own_s: list[float] = []
        self.reasons: Counter[str] = Counter()


@contextlib.asynccontextmanager
async def server(options: Sequence[str]) -> AsyncIterator[str]:
    """Run a server as a separate process; yield its URL once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "streamer", "serve", "--port", str(port), *options]
    process = await asyncio.create_subprocess_exec(*argv)
    url = f"http://127.0.0.1:{port}"
    try:
        async with ClientSession() as session, asyncio.timeout(START_TIMEOUT_S):
            while not await healthy(session, url):  # noqa: ASYNC110 - over HTTP there is no event
                await asyncio.sleep(0.05)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def healthy(session: ClientSession, url: str) -> bool:
    """Return whether the server answers."""
    with contextlib.suppress(OSError):
        async with session.get(f"{url}/healthz") as response:
            return response.status == 200
    return False


async def run(client: Client, code: str) -> str:
    """Run the neighbour, following its output, and return the reason of its end."""
    reason = ""
    async for event in client.run(language="python", code=code, limits=LIMITS_OF_NEIGHBOUR):
        if event.kind in ("complete", "error"):
            reason = str(getattr(event.data, "reason", event.kind))
    return reason


async def attack(client: Client, code: str, found: Measured) -> None:
    """Run an attack again and again, and note how each ended. Nobody reads its output."""
    language = LANGUAGES.get(code, "python")
    limits = LIMITS_OF_BUILDS if language == "bash" else LIMITS
    while True:
        job_id = await client.submit(language=language, code=code, limits=limits)
        try:
            while not (result := (await client.job(job_id)).get("result")):  # noqa: ASYNC110 - over HTTP there is no event
                await asyncio.sleep(ATTACK_LOOK_S)
            found.reasons[result.get("reason") or result["code"]] += 1
            found.own_s.append(result.get("durationMs", 0) / 1000)
        finally:
            await client.cancel(job_id)


async def watch_health(url: str, delays: list[float]) -> None:
    """Measure how long the server takes to answer."""
    async with ClientSession() as session:
        while True:
            started = time.perf_counter()
            await healthy(session, url)
            delays.append(time.perf_counter() - started)
            await asyncio.sleep(HEALTH_EVERY_S)


async def measure(url: str, code: str, found: Measured) -> None:
    """Run the neighbour once beside an attack; without code, alone."""
    tasks: list[asyncio.Task[Any]] = []
    async with Client(url) as client:
        if code:
            tasks.append(asyncio.create_task(attack(client, code, found)))
            await asyncio.sleep(TAKES_HOLD_S)
        tasks.append(asyncio.create_task(watch_health(url, found.health)))
        started = time.perf_counter()
        reason = await run(client, NEIGHBOUR)
        found.seconds.append(time.perf_counter() - started)
        assert reason == "exited", reason
        tasks.pop().cancel()
        # Wait for the end of an attack that runs longer than the neighbour.
        while tasks and not found.reasons:  # noqa: ASYNC110 - over HTTP there is no event
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def main(rounds: int, options: Sequence[str]) -> None:
    quiet = Measured()
    found = {name: Measured() for name in ATTACKS}
    async with server(options) as url:
        for _ in range(rounds):
            for name, code in ATTACKS.items():
                await measure(url, "", quiet)
                await measure(url, code, found[name])
    calm_s, calm_health = statistics.median(quiet.seconds), statistics.median(quiet.health)
    print(f"{os.cpu_count()} cores, uid {os.getuid()}, {rounds} rounds, {' '.join(options)}")
    print(
        f"{'':22}{'job s':>8}{'ratio':>7}{'health ms':>11}{'ratio':>7}{'p95 ms':>8}"
        f"{'own s':>7}  ended by"
    )
    for name, measured in {"alone": quiet, **found}.items():
        seconds, health = statistics.median(measured.seconds), statistics.median(measured.health)
        p95 = statistics.quantiles(measured.health, n=20)[-1]
        own_s = statistics.median(measured.own_s or [0])
        reasons = ", ".join(f"{reason} {n}" for reason, n in measured.reasons.most_common())
        print(
            f"{name:22}{seconds:8.2f}{seconds / calm_s:7.2f}{health * 1e3:11.2f}"
            f"{health / calm_health:7.2f}{p95 * 1e3:8.1f}{own_s:7.1f}  {reasons}"
        )


if __name__ == "__main__":
    given = sys.argv[1:]
    repeats = int(given.pop(0)) if given and given[0].isdigit() else 5
    asyncio.run(main(repeats, given))

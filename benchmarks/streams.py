"""Measure streams: delay, flood, fan-out, idle ones, and a reader that hardly reads."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import defaultdict
from collections.abc import Awaitable
from time import monotonic
from typing import Final

from benchmarks.client import Stream
from benchmarks.figures import Figure, median, percentile
from benchmarks.programs import HELLO, LINE_BYTES, bare_end, burst, clock, flood, sleeper
from benchmarks.runs import in_turns, run
from benchmarks.servers import MIB, STREAMER, Server, both, ours

__all__ = ["delay", "fanout", "flooding", "idle", "slow"]

FLOOD_MIB: Final = 256
SLOW_READERS: Final = 100
SIP_TIMEOUT_S: Final = 10
TIMEOUT_S: Final = 90


class Values(defaultdict[str, dict[str, list[float]]]):
    """The values of several figures: by name, then by target."""

    def __init__(self) -> None:
        super().__init__(lambda: defaultdict(list))

    def add(self, target: str, found: dict[str, float]) -> None:
        for name, value in found.items():
            self[name][target].append(value)


class Delays:
    """Read the clocks that a job prints."""

    def __init__(self) -> None:
        self.seconds: list[tuple[float, float]] = []
        """Of each line: when it arrived, and how long after it was printed."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rest = ""

    def on_event(self, name: bytes, data: bytes, now: float) -> None:
        if name == b"output":
            *lines, self._rest = (self._rest + json.loads(data)["data"]).split("\n")
            self.seconds += [(now, now - int(line) / 1e9) for line in lines if line.isdigit()]
        elif name in {b"complete", b"error"} and not self.ended.done():
            self.ended.set_result(None)


class Counter:
    """Count the lines and see the end in the bytes of a stream, at next to no cost."""

    def __init__(self) -> None:
        self.lines = 0
        self.first = self.last = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tail = b""

    def on_bytes(self, data: bytes, now: float) -> None:
        if not self.first and b"output" in data:
            self.first = now
        text = self._tail[-1:] + data
        self.lines += text.count(b"\\n")
        self._tail = (self._tail + data[-1000:])[-1000:]
        if b"complete" in self._tail or b"event: error" in self._tail:
            self.last = now
            if not self.ended.done():
                self.ended.set_result(None)


async def delay(rounds: int) -> list[Figure]:
    """Jobs print their clock every 10 ms: how much later each line is with its reader."""
    figures = []
    async with both(load=True) as servers:
        for load in (1, 50, 200):
            seconds = 5 + load * 0.05
            found = Values()
            for turn in range(rounds if load == 1 else max(1, rounds - 1)):
                for server in in_turns(servers, turn):
                    found.add(server.name, await _delays(server, load, seconds))
            figures += [
                Figure("delay p50, streams", "ms", found["p50"], load, plotted=True),
                Figure("delay p99, streams", "ms", found["p99"], load),
                Figure("server CPU a line, streams", "us", found["cpu"], load),
            ]
            if load > 1:
                worst = "delay p50 of the worst stream, x the median one's, streams"
                together = f"all open at once, of {seconds:g} s, streams"
                figures += [
                    Figure(worst, "", found["worst"], load, compared=False),
                    Figure(together, "s", found["together"], load, compared=False),
                ]
    return figures


async def _delays(server: Server, load: int, seconds: float) -> dict[str, float]:
    cpu = server.cpu_s()
    job = clock(int(seconds * 100))

    async def follow(delays: Delays) -> None:
        job_id = await server.client.submit(job)
        stream = await server.client.follow(job_id, Stream(on_event=delays.on_event))
        await asyncio.wait_for(delays.ended, TIMEOUT_S)
        stream.close()

    every = [Delays() for _ in range(load)]
    await asyncio.gather(*(follow(delays) for delays in every))
    lines = sum(len(delays.seconds) for delays in every)
    if lines != load * int(seconds * 100):
        raise RuntimeError(f"{server.name} delivered {lines} lines")
    # Only lines printed while all streams ran: those of a late reader are older.
    since = max(delays.seconds[0][0] for delays in every)
    until = min(delays.seconds[-1][0] for delays in every)
    common = [[s for at, s in each.seconds if since <= at - s and at <= until] for each in every]
    late = [seconds for each in common for seconds in each]
    if min(map(len, common)) < 50:
        raise RuntimeError(f"{server.name}'s {load} streams hardly ran at the same time")
    middles = [median(each) for each in common]
    return {
        "p50": percentile(late, 50) * 1e3,
        "p99": percentile(late, 99) * 1e3,
        "cpu": (server.cpu_s() - cpu) * 1e6 / lines,
        "worst": max(middles) / median(middles),
        "together": until - since,
    }


async def flooding(rounds: int) -> list[Figure]:
    """One job writes 256 MiB of short lines as fast as they are taken, to one reader."""
    found = Values()
    async with both(load=True) as servers:
        for turn in range(rounds):
            for server in in_turns(servers, turn):
                found.add(server.name, await _flood(server))
                await asyncio.sleep(0.5)
            first, end, size = bare_end("bwrap", flood(FLOOD_MIB))
            found.add("bwrap", {"rate": size / 1e6 / (end - first)})
    return [
        Figure("output", "MB/s", found["rate"], plotted=True, more=True),
        Figure("server CPU", "s", found["cpu"]),
        Figure("memory at most", "MiB", found["peak"]),
    ]


async def _flood(server: Server) -> dict[str, float]:
    counter = Counter()
    cpu = server.cpu_s()

    async def read() -> None:
        job_id = await server.client.submit(flood(FLOOD_MIB))
        stream = await server.client.follow(job_id, Stream(on_bytes=counter.on_bytes))
        await asyncio.wait_for(counter.ended, TIMEOUT_S)
        stream.close()

    peak = await _peak_mib(server, read())
    if counter.lines * LINE_BYTES != FLOOD_MIB * MIB:
        raise RuntimeError(f"{server.name} delivered {counter.lines} lines")
    rate = FLOOD_MIB * MIB / 1e6 / (counter.last - counter.first)
    return {"rate": rate, "cpu": server.cpu_s() - cpu, "peak": peak}


async def _peak_mib(server: Server, work: Awaitable[None]) -> float:
    """Return the most memory that the server had while something was done."""
    peak, task = 0.0, asyncio.ensure_future(work)
    while not task.done():
        peak = max(peak, server.resident_mib())
        await asyncio.wait([task], timeout=0.02)
    await task
    return peak


async def fanout(rounds: int) -> list[Figure]:
    """One job prints a line a millisecond; all its readers get each line."""
    figures = []
    async with both(load=True, fanout=True) as servers:
        for load in (1, 100, 1000):
            found = Values()
            for turn in range(rounds):
                for server in in_turns(servers, turn):
                    found.add(server.name, await _fan_out(server, load))
                    await asyncio.sleep(0.5)
            figures += [
                Figure("delay p50, readers", "ms", found["p50"], load, plotted=True),
                Figure("delay p99, readers", "ms", found["p99"], load),
                Figure("lines in all, readers", "1/s", found["rate"], load, more=True),
                Figure("server CPU a line and reader, readers", "us", found["cpu"], load),
            ]
    return figures


async def _fan_out(server: Server, load: int) -> dict[str, float]:
    count = max(100, min(2000, 300_000 // load))
    cpu = server.cpu_s()
    job_id = await server.client.submit(burst(count, 1 + load / 400))
    parsed = [Delays() for _ in range(min(load, 10))]
    counted = [Counter() for _ in range(load - len(parsed))]
    streams = [Stream(on_event=delays.on_event) for delays in parsed]
    streams += [Stream(on_bytes=counter.on_bytes) for counter in counted]
    for stream in streams:
        await server.client.follow(job_id, stream)
    ends = [*(each.ended for each in parsed), *(each.ended for each in counted)]
    await asyncio.wait_for(asyncio.gather(*ends), TIMEOUT_S)
    for stream in streams:
        stream.close()
    lines = sum(len(each.seconds) for each in parsed) + sum(each.lines for each in counted)
    if lines != load * count:
        raise RuntimeError(f"{server.name} delivered {lines} of {load * count} lines")
    late = [seconds for each in parsed for _, seconds in each.seconds]
    began = min(at - seconds for each in parsed for at, seconds in each.seconds)
    last = max(at for each in parsed for at, _ in each.seconds)
    return {
        "p50": percentile(late, 50) * 1e3,
        "p99": percentile(late, 99) * 1e3,
        "rate": lines / (last - began),
        "cpu": (server.cpu_s() - cpu) * 1e6 / lines,
    }


async def idle(rounds: int) -> list[Figure]:
    """Thousands of open streams of a job that waits: memory of each, how fast they open."""
    found: dict[int, Values] = defaultdict(Values)
    for _ in range((rounds + 1) // 2):
        async with both(load=True) as servers:
            for load in (1000, 5000):
                for server in servers:
                    found[load].add(server.name, await _idle(server, load))
    return [
        figure
        for load, values in found.items()
        for figure in (
            Figure("memory a stream, streams", "KiB", values["memory"], load, plotted=True),
            Figure("opened, streams", "1/s", values["opened"], load, more=True),
            Figure("CPU while idle, streams", "%", values["cpu"], load, compared=False),
        )
    ]


async def _idle(server: Server, load: int) -> dict[str, float]:
    before = server.resident_mib()
    job_id = await server.client.submit(sleeper(12 + load / 250))
    began = monotonic()
    streams: list[Stream] = []
    for _ in range(load // 50):
        batch = [Stream() for _ in range(50)]
        for stream in batch:
            await server.client.follow(job_id, stream, receive_buffer=8192)
        await asyncio.gather(*(stream.opened for stream in batch))
        streams += batch
    opened = load / (monotonic() - began)
    await asyncio.sleep(2)
    cpu, held = server.cpu_s(), server.resident_mib()
    await asyncio.sleep(3)
    used = (server.cpu_s() - cpu) / 3
    if any(stream.transport is None for stream in streams):
        raise RuntimeError(f"{server.name} closed idle streams")
    for stream in streams:
        stream.close()
    await asyncio.sleep(3)
    return {"memory": (held - before) * 1024 / load, "opened": opened, "cpu": used * 100}


async def slow(rounds: int) -> list[Figure]:
    """One reader takes 1 KB a second of a 256 MiB output, for 15 s; others run their jobs.

    Then a hundred readers, of one job of the service: what the reference server keeps for them
    would not fit into the machine.
    """
    found = Values()
    async with both(load=True) as servers:
        for server in servers:
            found.add(server.name, await _slow(server, 5 * rounds))
    async with ours(load=True) as server:
        crowd = await _slow_crowd(server, 5 * rounds)
    return [
        Figure("memory before", "MiB", found["before"]),
        Figure("memory at most", "MiB", found["peak"], plotted=True),
        Figure("another's job before", "ms", found["alone"]),
        Figure("another's job meanwhile", "ms", found["beside"], plotted=True),
        Figure("memory that a hundred readers add at most", "MiB", {STREAMER: [crowd]}),
    ]


async def _slow_reader(server: Server, job_id: str) -> socket.socket:
    """Return a connection that waits for a job's events, with a small buffer."""
    loop = asyncio.get_running_loop()
    reader = socket.socket()
    reader.setblocking(False)
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(reader, server.client.address)
    await loop.sock_sendall(reader, server.client.stream_request(job_id))
    return reader


async def _sip(server: Server, reader: socket.socket) -> None:
    received = asyncio.get_running_loop().sock_recv(reader, 1024)
    if not await asyncio.wait_for(received, SIP_TIMEOUT_S):
        raise RuntimeError(f"{server.name} closed a slow reader's stream")


async def _slow(server: Server, seconds: int) -> dict[str, float]:
    alone = [(await run(server.client, HELLO)).end * 1e3 for _ in range(5)]
    before, beside = server.resident_mib(), list[float]()

    async def crawl() -> None:
        reader = await _slow_reader(server, await server.client.submit(flood(FLOOD_MIB)))
        for _ in range(seconds):
            next_s = monotonic() + 1
            await _sip(server, reader)
            beside.append((await run(server.client, HELLO)).end * 1e3)
            await asyncio.sleep(max(0, next_s - monotonic()))
        reader.close()

    peak = await _peak_mib(server, crawl())
    return {"before": before, "peak": peak, "alone": median(alone), "beside": median(beside)}


async def _slow_crowd(server: Server, seconds: int) -> float:
    """Return by how much the memory grows for readers of one job who hardly read, in MiB."""
    for _ in range(5):
        await run(server.client, HELLO)
    before = server.resident_mib()

    async def crawl() -> None:
        job_id = await server.client.submit(flood(FLOOD_MIB))
        readers = [await _slow_reader(server, job_id) for _ in range(SLOW_READERS)]
        for _ in range(seconds):
            next_s = monotonic() + 1
            await asyncio.gather(*(_sip(server, reader) for reader in readers))
            await asyncio.sleep(max(0, next_s - monotonic()))
        for reader in readers:
            reader.close()

    return await _peak_mib(server, crawl()) - before

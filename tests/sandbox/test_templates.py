"""Sandboxes from a template: as closed as those of their own command, and nothing stays in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamer.sandbox.meter import Alarm
from streamer.sandbox.pool import Pool
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Shape
from tests.running import descendants
from tests.sandbox.templated import LIMITS, MIB, SHAPE, checked_pool, lent, pool_of, told


@pytest.fixture(params=["auto", "off"], ids=["groups", "no-groups"])
async def pool(request: pytest.FixtureRequest, need: Callable[[str], str]) -> AsyncIterator[Pool]:
    """A pool that leaves nothing, with control groups and without."""
    need("bwrap")
    async with checked_pool(request.param) as opened:
        yield opened


LOOK = """
import contextlib, ctypes, errno, json, os, re, socket
libc = ctypes.CDLL(None, use_errno=True)

def refused(result):
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]

def read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError as error:
        return errno.errorcode[error.errno]

status = dict(re.findall(r"^(\\w+):\\s*(.*)$", read("/proc/self/status"), re.M))
mounts = {line.split()[1]: line.split() for line in read("/proc/mounts").splitlines()}
listener = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listener.getsockname()).close()
keys = "/proc/keys"
found = {
    "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in
                   ("user", "pid", "mnt", "ipc", "uts", "net", "cgroup")},
    "devices": {path: os.stat(path).st_dev for path in
                ("/dev/pts", "/dev/shm", "/proc", "/tmp", "/work")},
    "capabilities": [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "privileges": status["NoNewPrivs"],
    "user": [os.getuid(), os.getgid()],
    "unshare": [refused(libc.unshare(flag)) for flag in (0x10000000, 0x20000, 0x40000000)],
    "unmount": [refused(libc.umount2(path, 2)) for path in
                (b"/proc", b"/proc/keys", b"/work", b"/tmp", b"/dev/pts", b"/usr", b"/")],
    "mount": refused(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
    "sysctl": [read(f"/proc/sys/user/max_{name}") for name in
               ("inotify_instances", "inotify_watches")],
    "set": [],
    "keys": os.path.exists(keys) and os.stat(keys).st_rdev,
    "fds": read("/proc/1/fd/0"),
    "memory": read("/proc/1/mem"),
    "environment": read("/proc/1/environ"),
    "parents": sorted(name for name in os.listdir("/proc") if name.isdigit()),
    "terminals": sorted(os.listdir("/dev/pts")),
    "hostname": socket.gethostname(),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "group": sorted({line.split(":")[2] for line in read("/proc/self/cgroup").splitlines()}),
    "sizes": {path: re.search(r"size=(\\d+)k", mounts[path][3])[1]
              for path in ("/work", "/tmp", "/dev/shm")},
    "readonly": sorted(path for path in mounts if mounts[path][3].split(",")[0] == "rw"),
    "files": {path: os.listdir(path) for path in ("/work", "/tmp", "/dev/shm")},
    "queues": read("/proc/sysvipc/shm").count("\\n"),
    "ports": len(read("/proc/net/tcp").splitlines()),
    "abstract": read("/proc/net/unix").count("@"),
}
for name in ("max_user_namespaces", "max_inotify_instances"):
    try:
        with open(f"/proc/sys/user/{name}", "w") as file:
            file.write("100")
        found["set"].append("done")
    except OSError as error:
        found["set"].append(errno.errorcode[error.errno])
try:
    with contextlib.suppress(OSError):
        os.chmod("/dev/pts/ptmx", 0o666)
    fd = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    os.ttyname(fd)
    found["terminal"] = "opened"
except OSError as error:
    found["terminal"] = errno.errorcode[error.errno]
print(json.dumps(found))
"""

LEAVE = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
for path in ("/work", "/tmp", "/dev/shm"):
    with open(f"{path}/left", "w") as file:
        file.write("left")
assert libc.shmget(1234, 4096, 0o1600) >= 0
sock = socket.socket(socket.AF_UNIX)
sock.bind("\\0left")
sock.listen()
tcp = socket.create_server(("127.0.0.1", 4242))
if os.fork() == 0:
    os.setsid()
    os.fork()
    import time
    time.sleep(600)
"""


async def test_two_jobs_in_a_row_have_nothing_in_common(pool: Pool) -> None:
    found: list[dict[str, Any]] = []
    limits = replace(LIMITS, disk_bytes=8 * MIB, memory_bytes=96 * MIB)
    for shape in (SHAPE, Shape("bwrap", limits)):
        async with lent(pool, shape) as sandbox:
            end, out = await told(sandbox, LOOK)
            assert end.status == 0
            found.append(json.loads(out))
            assert (await told(sandbox, LEAVE))[0].status == 0
    assert len(pool.templates.pids) == 2  # one template, and its wrapper
    first, second = found
    for each in found:
        del each["devices"]  # those of file systems that have ended may be given to new ones
    one, other = first.pop("namespaces"), second.pop("namespaces")
    ours = {name: str(Path(f"/proc/self/ns/{name}").readlink()) for name in one}
    assert not set(ours.values()) & {*one.values(), *other.values()}
    assert first.pop("sizes") == {"/work": "131072", "/tmp": "65536", "/dev/shm": "262144"}
    assert second.pop("sizes") == {"/work": "8192", "/tmp": "65536", "/dev/shm": "98304"}
    # The programs' own ids may differ by those of processes that had ended.
    assert [ids.pop("parents")[0] for ids in found] == ["1", "1"]
    null = Path("/dev/null").stat().st_rdev
    assert first == {
        "capabilities": ["0000000000000000"] * 5,
        "privileges": "1",
        "user": [65534, 65534],
        "unshare": ["EPERM"] * 3,
        "unmount": ["EPERM"] * 7,
        "mount": "EPERM",
        "sysctl": ["16", "8192"],
        "set": ["EACCES", "EACCES"],
        "keys": null if Path("/proc/keys").exists() else False,
        "fds": "EACCES",
        "memory": "EACCES",
        "environment": "EACCES",
        "terminals": ["ptmx"],
        "terminal": "EACCES",
        "hostname": "sandbox",
        "interfaces": ["lo"],
        "group": ["/"] if pool.cgroups else first["group"],
        "readonly": first["readonly"],
        "files": {"/work": [], "/tmp": [], "/dev/shm": []},
        "queues": 0,
        "ports": first["ports"],
        "abstract": 0,
    }
    assert first == second


async def test_both_ways_show_a_job_the_same(need: Callable[[str], str]) -> None:
    need("bwrap")
    found = []
    with pool_of() as pool:
        for from_template in (False, True):
            sandbox = await pool.lend(SHAPE, from_template=from_template)
            assert sandbox.from_template is from_template
            end, out = await told(sandbox, LOOK)
            await sandbox.close()
            assert end.status == 0
            found.append(json.loads(out))
            del found[-1]["namespaces"], found[-1]["parents"], found[-1]["devices"]
            # bwrap leaves what the init may have had: no_new_privs makes it worth nothing.
            del found[-1]["capabilities"][3]
        await pool.close()
    assert found[0] == found[1]


async def test_without_the_filter_there_is_no_further_user_namespace(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sandbox.pool.job_filter", lambda **_: None)
    async with lent(pool) as sandbox:
        _, out = await told(sandbox, LOOK)
        found = json.loads(out)
        assert found["unshare"] == ["ENOSPC", "EPERM", "EPERM"]
        assert found["unmount"] == ["EPERM"] * 7
        assert found["mount"] == "EPERM"


async def test_two_jobs_of_one_template_have_no_common_namespace_or_file_system(
    pool: Pool,
) -> None:
    # At the same time: the kernel may give the numbers of what has ended to what is new.
    async with contextlib.AsyncExitStack() as held, lent(pool) as first:
        (kept,) = pool.templates._kept.values()
        gated = kept.template.sandbox(kept.template.plan, "", (), by_group=0)
        held.push_async_callback(gated.close)
        await gated.come_up()
        second = Sandbox(
            gated,
            first.identity,
            None,
            Alarm(),
            held.pop_all(),
            way="template",
        )
        try:
            texts = await asyncio.gather(*(told(sandbox, LOOK) for sandbox in (first, second)))
        finally:
            await second.close()
    one, other = (json.loads(out) for _, out in texts)
    for what in ("namespaces", "devices"):
        assert not set(one[what].values()) & set(other[what].values())


async def test_a_group_that_runs_out_of_memory_takes_no_template_with_it(pool: Pool) -> None:
    limits = replace(LIMITS, memory_bytes=64 * MIB)
    async with lent(pool) as sandbox:
        pids = pool.templates.pids
        end, _ = await told(sandbox, "x = bytearray(512 * 1024 * 1024)", limits)
        assert end.cause == "memory"
    async with lent(pool):
        assert pool.templates.pids == pids


async def test_a_template_is_not_charged_to_a_job(pool: Pool) -> None:
    others = descendants()  # such as systemd's, in a session
    async with lent(pool):
        ours = Path("/proc/self/cgroup").read_text()
        in_service = pool.cgroups is None or not pool.cgroups.by_user
        for pid in pool.templates.pids:
            group = Path(f"/proc/{pid}/cgroup").read_text()
            assert group == ours if in_service else group.endswith("/templates\n")
        (job,) = descendants().keys() - others.keys() - pool.templates.pids
        assert (Path(f"/proc/{job}/cgroup").read_text() == ours) == (pool.cgroups is None)

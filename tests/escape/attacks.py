"""The attacks, as data: what a job tries, and which backends promise that it fails.

Each program is Python. `hint` holds where the host's lures are (see `bait`). It ends by
saying `held(why)` or `escaped(how)`; a program that says neither proves nothing and fails
the suite. The lures are looked at besides, whatever the program says.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ATTACKS", "Attack"]


@dataclass(frozen=True)
class Attack:
    """One attempt. `not_promised` maps a backend to why it does not promise to withstand."""

    name: str
    program: str
    not_promised: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The whole program."""
        return PRELUDE + textwrap.dedent(self.program)


PRELUDE = '''
import contextlib, ctypes, errno, fcntl, glob, json, mmap, os, signal, socket, stat, struct, subprocess, sys, time
hint = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)

def held(why=""):
    print("HELD:", why, flush=True)
    os._exit(0)

def escaped(how):
    print("ESCAPED:", how, flush=True)
    os._exit(0)

def call(name, *args):
    """A C function that returns -1 on failure; escapes if it does not fail."""
    result = getattr(libc, name)(*args)
    return result, errno.errorcode.get(ctypes.get_errno(), "")

def syscall(number, *args):
    return call("syscall", number, *args)

def read(path):
    with open(path, "rb") as file:
        return file.read(65536)

def refused(operation, *args, **kwargs):
    """Whether an operation raises OSError; its result otherwise escapes."""
    try:
        result = operation(*args, **kwargs)
    except OSError as error:
        return str(error)
    escaped(f"{getattr(operation, '__name__', operation)}{args} gave {str(result)[:80]}")

'''

_HOST = "it sees the host's files and network"
_DENY = "the host is visible but for what is hidden"
PLAIN = {"plain": _HOST}
DENY = {"plain": _HOST, "firejail": _DENY}

NAMESPACES = [
    Attack(
        "a user namespace of its own",
        """
        result, why = call("unshare", 0x10000000)
        held(why) if result else escaped("unshare(CLONE_NEWUSER)")
        """,
        PLAIN,
    ),
    Attack(
        "a user namespace by clone",
        """
        pid, why = syscall(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        held(why) if pid < 0 else escaped("clone(CLONE_NEWUSER)")
        """,
        PLAIN,
    ),
    *(
        Attack(
            f"a {name} namespace of its own",
            f"""
            result, why = call("unshare", {flag})
            held(why) if result else escaped("unshare")
            """,
        )
        for name, flag in (
            ("mount", 0x00020000),
            ("pid", 0x20000000),
            ("network", 0x40000000),
            ("ipc", 0x08000000),
            ("uts", 0x04000000),
            ("cgroup", 0x02000000),
        )
    ),
    Attack(
        "the namespaces of another process",
        """
        for path in glob.glob("/proc/[0-9]*/ns/*"):
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY)
                if os.readlink(path) != os.readlink("/proc/self/ns/" + path.split("/")[-1]):
                    if call("setns", fd, 0)[0] == 0:
                        escaped(path)
        held()
        """,
    ),
    Attack(
        "a mount",
        """
        os.makedirs("m", exist_ok=True)
        for source, kind, flags in ((b"none", b"tmpfs", 0), (b"/", None, 4096), (b"proc", b"proc", 0)):
            if call("mount", source, b"m", kind, flags, None)[0] == 0:
                escaped(f"mounted {kind}")
        if call("umount2", b"/proc", 2)[0] == 0 or call("umount2", b"/tmp", 2)[0] == 0:
            escaped("unmounted")
        held()
        """,
    ),
    Attack(
        "a read-only mount made writable",
        """
        for place in (b"/", b"/usr", b"/etc", b"/dev", b"/proc/sys"):
            if call("mount", None, place, None, 4096 | 32, None)[0] == 0:
                escaped(place)
        held()
        """,
    ),
    Attack(
        "the new mount interface",
        """
        fd, why = syscall(428, -100, b"/", 1)  # open_tree(OPEN_TREE_CLONE)
        if fd >= 0:
            escaped("open_tree")
        fd, why = syscall(430, b"tmpfs", 0)  # fsopen
        held(why) if fd < 0 else escaped("fsopen")
        """,
    ),
    Attack(
        "another root directory",
        """
        result, why = call("chroot", b".")
        held(why) if result else escaped("chroot")
        """,
    ),
    Attack(
        "a nested bwrap",
        """
        done = subprocess.run(["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"], capture_output=True)
        held(done.stderr[:80]) if done.returncode else escaped("bwrap in bwrap")
        """,
        PLAIN,
    ),
]

PRIVILEGES = [
    Attack(
        "setuid programs",
        """
        if os.geteuid() == 0:
            escaped("root")
        for path in glob.glob("/usr/bin/*") + glob.glob("/usr/sbin/*") + glob.glob("/bin/*"):
            with contextlib.suppress(OSError):
                if os.stat(path).st_mode & stat.S_ISUID and path.endswith(("/su", "/mount", "/passwd", "/chsh")):
                    pid = os.fork()
                    if pid == 0:
                        os.dup2(os.open("/dev/null", os.O_RDWR), 2)
                        os.execv(path, [path, "--help"])
                    with contextlib.suppress(OSError):
                        if b"\\nUid:\\t%d\\t0" % os.getuid() in read(f"/proc/{pid}/status"):
                            escaped(path)
                    os.waitpid(pid, 0)
        text = read("/proc/self/status").decode()
        held() if "NoNewPrivs:\\t1" in text else escaped("privileges can be gained")
        """,
    ),
    Attack(
        "capabilities",
        """
        sets = [line for line in read("/proc/self/status").decode().splitlines()
                if line.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb"))]
        held() if all(int(line.split()[1], 16) == 0 for line in sets) else escaped(sets)
        """,
    ),
    Attack(
        "becoming somebody else",
        """
        for uid in (0, 1, 1000, 60706, 60707, 65533):
            if uid != os.getuid():
                for name in ("setuid", "setgid"):
                    if call(name, uid)[0] == 0:
                        escaped(f"{name}({uid})")
        groups = set(os.getgroups()) - {os.getgid(), 65534}
        held() if not groups else escaped(groups)
        """,
    ),
    Attack(
        "a setuid file of its own",
        """
        open("s", "w").close()
        os.chmod("s", 0o6755)
        refused(os.chown, "s", 0, 0)
        held()
        """,
    ),
    Attack(
        "settings of the kernel",
        """
        for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/overcommit_memory",
                     "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger"):
            if path.endswith("trigger"):
                if os.access(path, os.W_OK):
                    escaped(path)
                continue
            with contextlib.suppress(OSError):
                now = read(path)
                with open(path, "wb", buffering=0) as file:  # its own value: success changes nothing
                    file.write(now)
                escaped(path)
        held()
        """,
    ),
    Attack(
        "the cgroup tree",
        """
        for folder, _, names in os.walk("/sys/fs/cgroup"):
            for name in (*names, "."):
                if os.access(os.path.join(folder, name), os.W_OK):
                    escaped(os.path.join(folder, name))
            if folder.count("/") > 6:
                break
        held()
        """,
    ),
    Attack(
        "/sys",
        """
        for folder in ("/sys", "/sys/kernel", "/sys/kernel/mm", "/sys/power", "/sys/module", "/sys/fs/bpf"):
            for name in [".", *(os.listdir(folder) if os.access(folder, os.R_OK) else [])]:
                if os.access(os.path.join(folder, name), os.W_OK):
                    escaped(os.path.join(folder, name))
        held()
        """,
    ),
    Attack(
        "devices",
        """
        for path in glob.glob("/dev/*"):
            with contextlib.suppress(OSError):
                mode = os.lstat(path).st_mode
                if stat.S_ISBLK(mode) and (os.access(path, os.R_OK) or os.access(path, os.W_OK)):
                    escaped(path)
        for name in ("mem", "kmem", "kmsg", "port", "kvm", "fuse", "loop-control", "net/tun", "vhost-vsock"):
            with contextlib.suppress(OSError):
                os.close(os.open("/dev/" + name, os.O_RDWR))
                escaped(name)
        refused(os.mknod, "disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0))
        held()
        """,
        {"plain": _HOST},
    ),
    Attack(
        "the terminal of the service",
        """
        for fd in (0, 1, 2):
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, 0x5412, b"x")  # TIOCSTI
                escaped(fd)
        refused(os.open, "/dev/tty", os.O_RDWR)
        held()
        """,
    ),
]

PROCESSES = [
    Attack(
        "signals to the host",
        """
        for pid in (hint["victim"], hint["server"]):
            for number in (0, signal.SIGUSR1):
                with contextlib.suppress(OSError):
                    own = os.getpid() == pid or os.getppid() == pid or pid < 20
                    if not own:
                        os.kill(pid, number)
                        escaped(pid)
        held()
        """,
    ),
    Attack(
        "processes of the host",
        """
        for folder in glob.glob("/proc/[0-9]*"):
            with contextlib.suppress(OSError):
                if b"bait-3c" + b"5f0e" in read(folder + "/cmdline"):
                    escaped("saw the victim's arguments")
                if b"bait-3c" + b"5f0e" in read(folder + "/environ"):
                    escaped("read the victim's environment")
        held() if len(glob.glob("/proc/[0-9]*")) < 12 else escaped("sees processes of others")
        """,
    ),
    Attack(
        "the memory of its parents",
        """
        for pid in {1, os.getppid(), hint["victim"], hint["server"]} - {os.getpid()}:
            for name in ("mem", "environ", "maps", "root/etc/passwd", "cwd/main.py"):
                path = f"/proc/{pid}/{name}"
                with contextlib.suppress(OSError):
                    os.close(os.open(path, os.O_RDWR if name == "mem" else os.O_RDONLY))
                    escaped(path)
        held()
        """,
    ),
    Attack(
        "tracing its parents",
        """
        for pid in {1, os.getppid(), hint["victim"], hint["server"]} - {os.getpid()}:
            if call("ptrace", 16, pid, 0, 0)[0] == 0:  # PTRACE_ATTACH
                escaped(f"ptrace {pid}")
            if call("ptrace", 0x4206, pid, 0, 0)[0] == 0:  # PTRACE_SEIZE
                escaped(f"ptrace {pid}")
            buffer = ctypes.create_string_buffer(8)
            one = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
            if call("process_vm_readv", pid, one, 1, one, 1, 0)[0] > 0:
                escaped(f"process_vm_readv {pid}")
        held()
        """,
    ),
    Attack(
        "the descriptors of its parents",
        """
        for pid in {1, os.getppid()} - {os.getpid()}:
            for path in glob.glob(f"/proc/{pid}/fd/*"):
                with contextlib.suppress(OSError):
                    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
                    escaped(path)
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(pid)
                for number in range(8):
                    if syscall(438, pidfd, number, 0)[0] >= 0:  # pidfd_getfd
                        escaped(f"pidfd_getfd({pid}, {number})")
        held()
        """,
    ),
    Attack(
        "inherited descriptors",
        """
        more = sorted(int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2)
        own = [fd for fd in more if os.path.exists(f"/proc/self/fd/{fd}")]
        held() if not own else escaped([os.readlink(f"/proc/self/fd/{fd}") for fd in own])
        """,
    ),
    Attack(
        "priorities",
        """
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -5)
            escaped("nice -5")
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            escaped("real-time priority")
        held()
        """,
    ),
]

FILES = [
    *(
        Attack(
            f"reading {path}",
            f"""
            for path in glob.glob({path!r}) or [{path!r}]:
                with contextlib.suppress(OSError):
                    names = os.listdir(path) if os.path.isdir(path) else read(path)
                    if names and path != os.environ["HOME"]:
                        escaped(f"{{path}}: {{names[:3]}}")
            held()
            """,
            reasons,
        )
        for path, reasons in (
            ("/etc/shadow", {}),
            ("/etc/ssl/private", {}),
            ("/etc/ssh/*_key", {}),
            ("/root", {}),
            ("/home/*", PLAIN),
            ("/var/spool/cron", PLAIN),
            ("/var/log", DENY),
            ("/boot", PLAIN),
            ("/mnt", PLAIN),
            ("/srv", PLAIN),
            ("/sys/class", PLAIN),
            ("/run", DENY),
        )
    ),
    Attack(
        "readable files of others in /tmp",
        """
        if b"bait" in (read(hint["readable"]) if os.path.exists(hint["readable"]) else b""):
            escaped(hint["readable"])
        held()
        """,
        PLAIN,
    ),
    Attack(
        "writable files of others in /tmp",
        """
        with contextlib.suppress(OSError):
            with open(hint["writable"], "w") as file:
                file.write("written")
            escaped(hint["writable"])
        held()
        """,
        PLAIN,
    ),
    Attack(
        "a file in a folder of the system",
        """
        for folder in hint["planted"]:
            path = os.path.join(folder, hint["plant"])
            if os.path.realpath(os.environ["HOME"]).startswith(folder):
                continue
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
                if folder not in ("/var/tmp", "/dev", "/run"):
                    escaped(path)
        held()
        """,
        PLAIN,
    ),
    Attack(
        "the programs of the system",
        """
        for path in (sys.executable, "/usr/bin/env", "/bin/sh", "/usr/lib", "/usr", "/init", "/etc/passwd", "/etc/hosts"):
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY))
                escaped(path)
            if os.access(path, os.W_OK):
                escaped(path)
        held()
        """,
    ),
    Attack(
        "the folder of the service",
        """
        home = os.environ["HOME"]
        for folder in glob.glob("/tmp/streamer-*") + glob.glob("/var/tmp/streamer-*"):
            for name in ("", "jobs", "rootfs", "rootfs/etc"):
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    names = set(os.listdir(path)) - {"init", os.path.basename(home)}
                    if names and name in ("", "jobs"):
                        escaped(f"{path}: {names}")
                if path != home and os.access(path, os.W_OK):
                    escaped(path)
        held()
        """,
        {"plain": "an ordinary user's jobs are that user"},
    ),
    Attack(
        "links out of its folder",
        """
        for name, target in (("a", "/etc/shadow"), ("b", "/proc/1/root/etc/shadow"), ("c", "/proc/self/cwd/../../../../etc/shadow"),
                             ("d", "/proc/1/cwd"), ("e", "/proc/1/exe")):
            os.symlink(target, name)
            with contextlib.suppress(OSError):
                if read(name):
                    escaped(target)
        with contextlib.suppress(OSError):
            os.link("/etc/shadow", "hard")
            escaped("hard link")
        with contextlib.suppress(OSError):
            os.link(sys.executable, "hard2")
            escaped("hard link to a program")
        held()
        """,
    ),
    Attack(
        "a file by its handle",
        """
        buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
        mount = ctypes.c_int()
        call("name_to_handle_at", -100, b"/usr", buffer, ctypes.byref(mount), 0)
        fd = os.open("/usr", os.O_RDONLY)
        got, why = call("open_by_handle_at", fd, buffer, os.O_RDONLY)
        held(why) if got < 0 else escaped("open_by_handle_at")
        """,
    ),
    Attack(
        "a core dump",
        """
        import resource
        if resource.getrlimit(resource.RLIMIT_CORE)[0]:
            escaped("RLIMIT_CORE")
        pid = os.fork()
        if pid == 0:
            os.abort()
        status = os.waitpid(pid, 0)[1]
        if os.WCOREDUMP(status) or glob.glob("core*"):
            escaped("a core was written")
        held()
        """,
    ),
]

NETWORK = [
    Attack(
        "a server on loopback",
        """
        refused(socket.create_connection, ("127.0.0.1", hint["port"]), 2)
        held()
        """,
        PLAIN,
    ),
    Attack(
        "a server on loopback, by IPv6",
        """
        refused(socket.create_connection, ("::ffff:127.0.0.1", hint["port"]), 2)
        held()
        """,
        PLAIN,
    ),
    Attack(
        "an abstract socket",
        """
        sock = socket.socket(socket.AF_UNIX)
        refused(sock.connect, "\\0" + hint["abstract"])
        held()
        """,
        PLAIN,
    ),
    Attack(
        "a socket in /tmp",
        """
        sock = socket.socket(socket.AF_UNIX)
        refused(sock.connect, hint["socket_in_tmp"])
        held()
        """,
        PLAIN,
    ),
    Attack(
        "a socket in /run",
        """
        if not hint["socket_in_run"]:
            held("there is none")
        sock = socket.socket(socket.AF_UNIX)
        refused(sock.connect, hint["socket_in_run"])
        held()
        """,
        DENY,
    ),
    Attack(
        "sockets of the system's services",
        """
        for path in ("/run/docker.sock", "/var/run/docker.sock", "/run/dbus/system_bus_socket", "/run/systemd/private",
                     "/run/containerd/containerd.sock", "/run/snapd.socket", "/run/podman/podman.sock"):
            with contextlib.suppress(OSError):
                socket.socket(socket.AF_UNIX).connect(path)
                escaped(path)
        held()
        """,
        DENY,
    ),
    Attack(
        "the network's metadata service",
        """
        for address in (("169.254.169.254", 80), ("10.0.0.1", 80), ("192.168.0.1", 53)):
            sock = socket.socket()
            sock.settimeout(0.3)
            refused(sock.connect, address)
        held()
        """,
        PLAIN,
    ),
    Attack(
        "an interface other than loopback",
        """
        lines = read("/proc/net/dev").decode().splitlines()[2:]
        others = [line.split(":")[0].strip() for line in lines if "lo:" not in line]
        held() if not others else escaped(others)
        """,
        PLAIN,
    ),
    Attack(
        "a name server",
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(0.3)
        for server in ("8.8.8.8", "127.0.0.53", "127.0.0.1"):
            try:
                sock.sendto(b"\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x01a\\x02io\\0\\0\\x01\\0\\x01", (server, 53))
                if sock.recv(512):
                    escaped(server)
            except OSError:
                pass
        held()
        """,
        PLAIN,
    ),
    Attack(
        "raw and odd sockets",
        """
        for family, kind, protocol in ((socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_PACKET, socket.SOCK_RAW, 3)):
            with contextlib.suppress(OSError):
                socket.socket(family, kind, protocol)
                escaped((family, kind))
        with contextlib.suppress(OSError):
            sock = socket.socket(40, socket.SOCK_STREAM)  # AF_VSOCK
            sock.settimeout(0.3)
            sock.connect((2, 22))
            escaped("the host by vsock")
        held()
        """,
    ),
]

ACROSS_JOBS = [
    Attack(
        "the kernel's keys",
        """
        # A key in the user's keyring would be there for the next job of the same user.
        KEYCTL, ADD_KEY = 250, 248
        found, why = syscall(KEYCTL, 10, -4, b"user", b"streamer-escape", 0)  # KEYCTL_SEARCH
        if found > 0:
            escaped("a key of another job")
        syscall(ADD_KEY, b"user", b"streamer-escape", b"x", 1, -4)
        held(why)
        """,
        {"plain": "the keys of a user outlive a job, and the next job may get the same user"},
    ),
    Attack(
        "shared memory of System V",
        """
        for line in read("/proc/sysvipc/shm").decode().splitlines()[1:]:
            escaped(line)
        segment = libc.shmget(0x5712, 4096, 0o1666)
        held(segment)
        """,
    ),
    Attack(
        "message queues",
        """
        for name in ("msg", "sem"):
            if len(read(f"/proc/sysvipc/{name}").decode().splitlines()) > 1:
                escaped(name)
        libc.msgget(0x5712, 0o1666)
        queue, why = call("mq_open", b"/streamer-escape", os.O_RDONLY)
        if queue >= 0:
            escaped("a message queue of another job")
        call("mq_open", b"/streamer-escape", os.O_RDWR | os.O_CREAT, 0o666, None)
        held()
        """,
    ),
    Attack(
        "files in /tmp and /dev/shm",
        """
        for folder in ("/tmp", "/dev/shm", "/var/tmp"):
            path = os.path.join(folder, "streamer-escape-note")
            if os.path.exists(path):
                escaped(path)
            with contextlib.suppress(OSError):
                open(path, "w").close()
        held()
        """,
        PLAIN,
    ),
]

ATTACKS: tuple[Attack, ...] = tuple(
    NAMESPACES + PRIVILEGES + PROCESSES + FILES + NETWORK + ACROSS_JOBS
)

"""Attacks on privileges: gaining them, and using those that a mistake may have left."""

from __future__ import annotations

from typing import Final

from streamer.testing.attack import HOST_VISIBLE, Attack

__all__ = ["ATTACKS"]

ATTACKS: Final = (
    Attack(
        "root by a setuid program",
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
        covers=(49,),
    ),
    Attack(
        "the bar on new privileges lifted",
        """
        for number, value in ((38, 0), (28, 0x2F), (8, 1)):  # NO_NEW_PRIVS, SECUREBITS, KEEPCAPS
            result, why = call("prctl", number, value, 0, 0, 0)
            if number != 8 and result == 0:
                escaped(f"prctl({number})")
        held(why)
        """,
        covers=(49,),
    ),
    Attack(
        "capabilities that it was left",
        """
        sets = [line for line in read("/proc/self/status").decode().splitlines()
                if line.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb"))]
        held() if all(int(line.split()[1], 16) == 0 for line in sets) else escaped(sets)
        """,
        covers=(49,),
    ),
    Attack(
        "capabilities that it sets",
        """
        header = struct.pack("Ii", 0x20080522, 0)
        if syscall("capset", header, struct.pack("IIIIII", *[1 << 21] * 3, 0, 0, 0))[0] == 0:
            escaped("capset(CAP_SYS_ADMIN)")
        for capability in (0, 7, 12, 21):
            if call("prctl", 47, 2, capability, 0, 0)[0] == 0:  # PR_CAP_AMBIENT_RAISE
                escaped(f"ambient capability {capability}")
        held()
        """,
        covers=(49,),
    ),
    Attack(
        "capabilities by a file",
        """
        import shutil
        shutil.copy(os.path.realpath(sys.executable), "copy")
        value = struct.pack("<IIIII", 0x02000001, 1 << 21, 0, 0, 0)
        with contextlib.suppress(OSError):
            os.setxattr("copy", "security.capability", value)
            done = subprocess.run(["./copy", "-c", "print(open('/proc/self/status').read())"], capture_output=True)
            line = [l for l in done.stdout.decode().splitlines() if l.startswith("CapEff")]
            if any(int(l.split()[1], 16) for l in line):
                escaped(line)
        held()
        """,
        covers=(49,),
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
        covers=(49,),
    ),
    Attack(
        "a setuid file of its own",
        """
        open("s", "w").close()
        with contextlib.suppress(OSError):
            os.chmod("s", 0o6755)
        refused(os.chown, "s", 0, 0)
        held()
        """,
        covers=(34, 49),
    ),
    Attack(
        "settings of the kernel",
        """
        paths = ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/overcommit_memory",
                 "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward"]
        # Also those of its own namespaces.
        paths += [os.path.join(folder, name) for folder, _, names in os.walk("/proc/sys") for name in names
                  if os.access(os.path.join(folder, name), os.W_OK)]
        for path in paths:
            with contextlib.suppress(OSError):
                now = read(path)
                with open(path, "wb", buffering=0) as file:  # its own value: success changes nothing
                    file.write(now)
                escaped(path)
        # A process with 4096 triggers of pressure cannot be killed for a minute.
        for path in ("/proc/sysrq-trigger", *glob.glob("/proc/pressure/*")):
            if os.access(path, os.W_OK):
                escaped(path)
        held()
        """,
        covers=(51,),
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
        covers=(50,),
    ),
    Attack(
        "the release_agent of a control group",
        """
        for path in glob.glob("/sys/fs/cgroup/release_agent") + glob.glob("/sys/fs/cgroup/*/release_agent"):
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY))
                escaped(path)
        held()
        """,
        covers=(50,),
    ),
    Attack(
        "another control group for itself",
        """
        for line in read("/proc/self/cgroup").decode().splitlines():
            _, controllers, own = line.split(":", 2)
            base = os.path.join("/sys/fs/cgroup", controllers.replace("name=", ""))
            for group in (base, os.path.dirname(base + own)):
                for name in ("cgroup.procs", "tasks"):
                    with contextlib.suppress(OSError):
                        with open(os.path.join(group, name), "w") as file:
                            file.write("0")
                        escaped(f"it moved to {group}")
        held()
        """,
        covers=(50,),
    ),
    Attack(
        "/sys written",
        """
        for folder in ("/sys", "/sys/kernel", "/sys/kernel/mm", "/sys/power", "/sys/module", "/sys/fs/bpf"):
            for name in [".", *(os.listdir(folder) if os.access(folder, os.R_OK) else [])]:
                if os.access(os.path.join(folder, name), os.W_OK):
                    escaped(os.path.join(folder, name))
        held()
        """,
        covers=(50,),
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
        held()
        """,
        HOST_VISIBLE,
    ),
    Attack(
        "a device node of its own",
        """
        for kind, device in ((stat.S_IFBLK, os.makedev(8, 0)), (stat.S_IFCHR, os.makedev(1, 1))):
            refused(os.mknod, "node", 0o600 | kind, device)
        held()
        """,
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
        covers=(45,),
    ),
    Attack(
        "limits of its own raised",
        """
        for name in ("CPU", "FSIZE", "NOFILE", "NPROC", "CORE"):
            which = getattr(resource, "RLIMIT_" + name)
            hard = resource.getrlimit(which)[1]
            if hard == resource.RLIM_INFINITY:
                escaped(f"{name} has no limit")
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(which, (hard + 1, hard + 1))
                escaped(f"{name} was raised")
        held()
        """,
        covers=(50, 64),
    ),
    Attack(
        "being spared when memory is short",
        """
        with contextlib.suppress(OSError):
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("-1000")
            escaped("the kernel would take the service first")
        held()
        """,
    ),
    Attack(
        "a real-time or a raised priority",
        """
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -5)
            escaped("nice -5")
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            escaped("real-time priority")
        if syscall("ioprio_set", 1, 0, 1 << 13)[0] == 0:
            escaped("real-time priority of I/O")
        held()
        """,
    ),
    Attack(
        "a core dump",
        """
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
        covers=(51,),
    ),
)

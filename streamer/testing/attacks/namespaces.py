"""Attacks on namespaces: creating new ones, entering those of the host, moving mounts."""

from __future__ import annotations

from typing import Final

from streamer.testing.attack import HOST_VISIBLE, Attack

__all__ = ["ATTACKS"]

ATTACKS: Final = (
    Attack(
        "a user namespace by unshare",
        """
        result, why = call("unshare", 0x10000000)
        held(why) if result else escaped("unshare(CLONE_NEWUSER)")
        """,
        HOST_VISIBLE,
        covers=(49,),
    ),
    Attack(
        "a user namespace by clone",
        """
        pid, why = syscall("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        held(why) if pid < 0 else escaped("clone(CLONE_NEWUSER)")
        """,
        HOST_VISIBLE,
        covers=(49,),
    ),
    Attack(
        "a user namespace by clone3",
        """
        class Arguments(ctypes.Structure):
            _fields_ = [(name, ctypes.c_uint64) for name in
                        ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls")]
        pid, why = syscall(435, ctypes.byref(Arguments(flags=0x10000000, exit_signal=signal.SIGCHLD)), 64)
        if pid == 0:
            os._exit(0)
        held(why) if pid < 0 else escaped("clone3(CLONE_NEWUSER)")
        """,
        HOST_VISIBLE,
        covers=(49,),
    ),
    Attack(
        "a user namespace with root in it",
        """
        user = os.getuid()
        done, why = call("unshare", 0x10000000)
        if done:
            held(why)
        with contextlib.suppress(OSError):
            open("/proc/self/setgroups", "w").write("deny")
            open("/proc/self/uid_map", "w").write(f"0 {user} 1")
        escaped("root, with all capabilities inside") if os.getuid() == 0 else escaped("a namespace")
        """,
        HOST_VISIBLE,
        covers=(49,),
    ),
    *(
        Attack(
            f"{name} namespace of its own",
            f"""
            result, why = call("unshare", {flag})
            held(why) if result else escaped("unshare")
            """,
        )
        for name, flag in (
            ("a mount", 0x00020000),
            ("a process-id", 0x20000000),
            ("a network", 0x40000000),
            ("an IPC", 0x08000000),
            ("a host-name", 0x04000000),
            ("a cgroup", 0x02000000),
            ("a time", 0x00000080),
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
        covers=(43,),
    ),
    Attack(
        "the namespaces of a parent by ioctl",
        """
        for name in ("user", "pid"):
            fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
            for request in (0xB701, 0xB702):  # NS_GET_USERNS, NS_GET_PARENT
                with contextlib.suppress(OSError):
                    outer = fcntl.ioctl(fd, request)
                    if call("setns", outer, 0)[0] == 0:
                        escaped(f"entered the parent of its {name} namespace")
        held()
        """,
        covers=(43,),
    ),
    Attack(
        "a mount of its own",
        """
        os.makedirs("m", exist_ok=True)
        for source, kind, flags in ((b"none", b"tmpfs", 0), (b"/", None, 4096), (b"proc", b"proc", 0)):
            if call("mount", source, b"m", kind, flags, None)[0] == 0:
                escaped(f"mounted {kind}")
        held()
        """,
    ),
    Attack(
        "what lies under a mount",
        """
        for place in (b"/proc", b"/tmp", b"/dev/shm", b"/dev", b"/etc", b"/"):
            if call("umount2", place, 2)[0] == 0:  # MNT_DETACH
                escaped(f"unmounted {place}")
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
        "a mount attribute changed",
        """
        attributes = struct.pack("QQQQ", 0, 1, 0, 0)  # clear MOUNT_ATTR_RDONLY
        for place in (b"/", b"/usr", b"/proc"):
            if syscall(442, -100, place, 0, attributes, 32)[0] == 0:  # mount_setattr
                escaped(place)
        held()
        """,
    ),
    Attack(
        "the newer interface of mounts",
        """
        fd, why = syscall(428, -100, b"/", 1)  # open_tree(OPEN_TREE_CLONE)
        if fd >= 0:
            escaped("open_tree")
        fd, why = syscall(430, b"tmpfs", 0)  # fsopen
        held(why) if fd < 0 else escaped("fsopen")
        """,
    ),
    Attack(
        "a mount of the control groups",
        """
        os.makedirs("m", exist_ok=True)
        for kind, data in ((b"cgroup2", None), (b"cgroup", b"memory"), (b"cgroup", b"rdma")):
            if call("mount", b"none", b"m", kind, 0, data)[0] == 0:
                escaped(f"mounted {kind}, where a release_agent is")
        held()
        """,
        covers=(50,),
    ),
    Attack(
        "another root directory",
        """
        result, why = call("chroot", b".")
        held(why) if result else escaped("chroot")
        """,
    ),
    Attack(
        "another root by pivot_root",
        """
        result, why = syscall("pivot_root", b".", b".")
        held(why) if result else escaped("pivot_root")
        """,
    ),
    Attack(
        "a sandbox within the sandbox",
        """
        import shutil
        if not shutil.which("bwrap"):
            held("there is no bwrap inside")
        done = subprocess.run(["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"], capture_output=True)
        held(done.stderr[:80]) if done.returncode else escaped("bwrap in bwrap")
        """,
        HOST_VISIBLE,
        covers=(49,),
    ),
)

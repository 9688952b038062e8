"""Attacks on files of the host: reading, writing, planting, access through links and handles."""

from __future__ import annotations

from typing import Final

from streamer.spi import Isolation
from streamer.testing.attack import HOST_VISIBLE, Attack

__all__ = ["ATTACKS"]

_READ: Final = """
for pattern in {patterns!r}:
    for path in glob.glob(pattern) or [pattern]:
        with contextlib.suppress(OSError):
            names = os.listdir(path) if os.path.isdir(path) else read(path)
            if names and path != os.environ["HOME"]:
                escaped(f"{{path}}: {{names[:3]}}")
held()
"""

ATTACKS: Final = (
    *(
        Attack(name, _READ.format(patterns=patterns), reasons, covers=covers)
        for name, patterns, reasons, covers in (
            (
                "files that only root may read",
                ("/etc/shadow", "/etc/gshadow", "/etc/ssl/private", "/etc/ssh/*_key", "/root"),
                {},
                (12,),
            ),
            ("the homes and the spools of users", ("/home/*", "/var/spool/*"), HOST_VISIBLE, ()),
            ("other file systems", ("/boot", "/mnt/*", "/media/*", "/srv/*"), HOST_VISIBLE, ()),
            ("the logs", ("/var/log",), HOST_VISIBLE, ()),
            ("the devices in /sys", ("/sys/class", "/sys/block"), HOST_VISIBLE, (50,)),
        )
    ),
    Attack(
        "the state of running services",
        """
        # firejail has its own things there, made anew for each sandbox.
        names = []
        for name in set(os.listdir("/run") if os.path.isdir("/run") else ()) - {"firejail"}:
            with contextlib.suppress(PermissionError):  # a hidden folder has a name, and no more
                with contextlib.suppress(NotADirectoryError):
                    os.listdir("/run/" + name)
                names.append(name)
        sockets = []
        for folder, _, files in os.walk("/run"):
            for path in (os.path.join(folder, name) for name in files):
                with contextlib.suppress(OSError):
                    if stat.S_ISSOCK(os.stat(path).st_mode):
                        sockets.append(path)
        held() if not names and not sockets else escaped(f"/run: {sorted(names)[:3]} {sockets[:3]}")
        """,
        HOST_VISIBLE,
        covers=(46,),
    ),
    Attack(
        "readable files of others in /tmp",
        """
        if secret in (read(hint["readable"]) if os.path.exists(hint["readable"]) else b""):
            escaped(hint["readable"])
        held()
        """,
        HOST_VISIBLE,
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
        HOST_VISIBLE,
    ),
    Attack(
        "a file in a folder of the system",
        """
        for path in hint["plants"]:
            folder = os.path.dirname(path)
            if os.path.realpath(os.environ["HOME"]).startswith(folder):
                continue
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
                if folder not in ("/var/tmp", "/dev", "/run"):  # the host's side tells of these
                    escaped(path)
        held()
        """,
        HOST_VISIBLE,
        covers=(40,),
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
        covers=(40,),
    ),
    Attack(
        "settings that a later start would read",
        """
        home = os.path.realpath(os.environ["HOME"])
        for path in ("/etc/ld.so.preload", "/etc/profile.d", "/etc/cron.d", "/etc/sudoers.d", "/etc/systemd/system",
                     "/usr/lib/python3/dist-packages", "/usr/local/lib", "/usr/local/bin", "/lib/systemd/system"):
            if not path.startswith(home) and os.access(path, os.W_OK):
                escaped(path)
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
                os.unlink(path)
                escaped(path)
        held()
        """,
        covers=(40,),
    ),
    Attack(
        "the folder of the service",
        """
        home = os.environ["HOME"]
        folders = glob.glob(hint["state"] + "/*") + glob.glob("/tmp/streamer-*") + glob.glob("/var/tmp/streamer-*")
        for folder in folders:
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
        {Isolation.NONE: "an ordinary user's jobs are that user"},
        covers=(41, 52),
    ),
    Attack(
        "files of the host by symbolic links",
        """
        for name, target in (("a", "/etc/shadow"), ("b", "/proc/1/root/etc/shadow"), ("c", "/proc/self/cwd/../../../../etc/shadow"),
                             ("d", "/proc/1/cwd"), ("e", "/proc/1/exe"), ("f", "../../../../../../etc/shadow")):
            os.symlink(target, name)
            with contextlib.suppress(OSError):
                if read(name):
                    escaped(target)
        held()
        """,
        covers=(33,),
    ),
    Attack(
        "files of the host by hard links",
        """
        for number, target in enumerate(("/etc/shadow", "/etc/passwd", sys.executable, hint["readable"])):
            with contextlib.suppress(OSError):
                os.link(target, f"hard{number}")
                escaped(target)
        held()
        """,
        {Isolation.NONE: "an ordinary user's jobs are that user"},
        covers=(31, 34),
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
        "files in /dev",
        """
        for path in ("/dev/streamer-file", "/dev/pts/streamer-file"):
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
                os.unlink(path)
                escaped(path)
        held()
        """,
        {Isolation.DENY_LIST: "the wrapper makes /dev, as a file system of the job's own"},
        covers=(37,),
    ),
    Attack(
        "the owner and the times of others' files",
        """
        for path in (sys.executable, "/usr/bin/env", "/usr", "/etc/passwd", "/"):
            for operation, arguments in ((os.utime, ((0, 0),)), (os.chmod, (0o777,)), (os.chown, (os.getuid(), -1))):
                with contextlib.suppress(OSError):
                    if os.stat(path).st_uid != os.getuid() or operation is not os.chown:
                        operation(path, *arguments)
                        escaped(f"{operation.__name__} of {path}")
        held()
        """,
        covers=(34,),
    ),
)

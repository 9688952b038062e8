"""Attacks on the operator's packages: a job may use those that it names, and that is all."""

from __future__ import annotations

from typing import Final

from streamer.spi import Isolation
from streamer.testing.attack import Attack

__all__ = ["ATTACKS"]

_TRAP: Final = """
package = os.path.dirname(sys.modules["trusted"].__file__)
base = sys.prefix

def attempt(what, *args):
    with contextlib.suppress(OSError):
        what(*args)
        escaped(f"{what.__name__}{args}")
"""

ATTACKS: Final = (
    Attack(
        "files of its environment",
        f"""
        import trusted
        {_TRAP.replace(chr(10), chr(10) + " " * 8).strip()}
        manifest = os.path.join(base, "streamer-environment.json")
        for path in (trusted.__file__, package, base, manifest):
            attempt(os.chmod, path, 0o777)
            attempt(os.utime, path, (0, 0))
            attempt(os.setxattr, path, "user.planted", b"1")
        for path in (trusted.__file__, manifest):
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
                attempt(os.open, path, flags)
            attempt(os.truncate, path, 0)
            attempt(os.unlink, path)
        attempt(os.unlink, sys.executable)
        attempt(os.rename, package, package + "-away")
        attempt(os.link, trusted.__file__, os.path.join(package, "again.py"))
        # As a descriptor, which is not looked up again.
        folder = os.open(package, os.O_RDONLY)
        attempt(os.fchmod, folder, 0o777)
        attempt(lambda: os.open("planted.py", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        held()
        """,
        environment=True,
    ),
    Attack(
        "its environment, mounted anew",
        f"""
        import trusted
        {_TRAP.replace(chr(10), chr(10) + " " * 8).strip()}
        call("unshare", 0x10020000)  # CLONE_NEWUSER | CLONE_NEWNS
        for path in (package, base, os.path.dirname(base)):
            place = path.encode() + b"\\0"
            call("umount2", place, 2)  # MNT_DETACH
            call("mount", 0, place, 0, 0x1020, 0)  # MS_REMOUNT | MS_BIND, without MS_RDONLY
            call("mount", place, place, 0, 0x5000, 0)  # MS_BIND | MS_REC
            call("mount", 0, place, 0, 0x1020, 0)
        attempt(os.open, trusted.__file__, os.O_WRONLY)
        attempt(os.open, os.path.join(package, "planted.py"), os.O_CREAT | os.O_WRONLY)
        held()
        """,
        environment=True,
    ),
    Attack(
        "another environment",
        """
        import trusted
        for path in (hint["other_environment"], os.path.join(hint["other_environment"], "bin")):
            refused(os.listdir, path)
            refused(os.stat, path)
        others = set(os.listdir(os.path.dirname(sys.prefix))) - {os.path.basename(sys.prefix)}
        if others:
            escaped(f"it sees {others}")
        held()
        """,
        {Isolation.NONE: "it sees the host's files and network"},
        environment=True,
    ),
    Attack(
        "the next job, by a trap in its environment",
        f"""
        import trusted
        if "planted" in os.environ or hasattr(sys, "planted") or trusted.VALUE != "as built":
            escaped("the job before it has left a trap")
        {_TRAP.replace(chr(10), chr(10) + " " * 8).strip()}
        trap = "import sys; sys.planted = 1; VALUE = 'planted'"
        for name in ("sitecustomize.py", "usercustomize.py", "planted.pth", "trusted.py"):
            with contextlib.suppress(OSError), open(os.path.join(package, name), "w") as file:
                file.write(trap)
        for path in glob.glob(os.path.join(package, "__pycache__", "*")):
            with contextlib.suppress(OSError), open(path, "r+b") as file:
                file.write(b"planted")
        with contextlib.suppress(OSError):
            os.rename("attack.py", os.path.join(base, "bin", "python"))
        with contextlib.suppress(OSError), open(os.path.join(base, "pyvenv.cfg"), "a") as file:
            file.write("include-system-site-packages = true")
        held()
        """,
        environment=True,
        times=2,
    ),
)

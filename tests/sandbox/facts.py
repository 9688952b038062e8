"""What two programs could have in common: each fact by itself, as one alone may be shared."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Final

__all__ = ["FACTS", "in_common", "of_any_two"]

ADDRESSES: Final = """
import json, os
facts = {}
for line in open("/proc/self/maps"):
    place, *_, name = line.split()
    name = os.path.basename(name)
    if name in ("[heap]", "[stack]", "[vdso]") or name.startswith(("libc.so", "python3")):
        facts.setdefault("address of " + name, place.partition("-")[0])
"""

OTHERS: Final = r"""
import ctypes, random, secrets, ssl, tempfile, uuid
facts["address of an object"] = id(object())
facts["hash of a text"] = hash("a text")
itself = ctypes.CDLL(None).pthread_self
itself.restype = ctypes.c_void_p
guards = (ctypes.c_uint64 * 7).from_address(itself())
if os.uname().machine == "x86_64":
    facts["guard of the stack"], facts["guard of pointers"] = guards[5], guards[6]
getauxval = ctypes.CDLL(None).getauxval
getauxval.restype, getauxval.argtypes = ctypes.c_void_p, (ctypes.c_ulong,)
facts["AT_RANDOM"] = ctypes.string_at(getauxval(25), 16).hex()
facts["random"] = random.random()
facts["a copy of random"] = random.Random().random()
facts["secrets"] = secrets.token_hex()
facts["urandom"] = os.urandom(16).hex()
facts["uuid1"], facts["uuid4"] = str(uuid.uuid1()), str(uuid.uuid4())
facts["node of uuid1"] = uuid.getnode()
facts["ssl"] = ssl.RAND_bytes(16).hex()
facts["name of a temporary file"] = os.path.basename(tempfile.mktemp())
for path in ("/work", "/tmp", "/dev/shm"):
    assert "left by the other" not in os.listdir(path), path
    open(path + "/left by the other", "w").close()
for fd in range(3):
    facts[f"descriptor {fd}"] = os.fstat(fd).st_ino
print(json.dumps(facts))
"""

FACTS: Final = ADDRESSES + OTHERS
"""A program in Python that prints its facts; it fails if it finds a file of another."""


def of_any_two(python: str = "/usr/bin/python3") -> set[str]:
    """Return the facts that two programs share which were started one after another, without us.

    Debian links Python for a fixed address, and not every kernel places mappings at random.
    """
    argv = (python, "-c", f"{ADDRESSES}print(json.dumps(facts))")
    one, other = (subprocess.check_output(argv, text=True) for _ in range(2))
    found = in_common((one, other))
    if any(name.startswith("address of libc") for name in found):
        found.add("address of an object")  # of a mapping too
    return found


def in_common(said: Sequence[str]) -> set[str]:
    """Return the names of the facts that are the same in what two of these programs have printed."""
    one, other = map(json.loads, said)
    return {name for name, value in one.items() if value == other[name]}

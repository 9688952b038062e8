"""What Schemathesis needs (SCHEMATHESIS_HOOKS): archives, since it cannot make one from a schema."""

from __future__ import annotations

import ast
import threading
from functools import partial
from typing import Any

import schemathesis
from hypothesis import strategies as st

from tests.jobs.archives import packed, tar_of, zip_of

NAME = st.from_regex(r"([a-z]{1,8}/){0,2}[a-z]{1,8}\.[a-z]{1,3}", fullmatch=True)
FILES = st.dictionaries(NAME, st.binary(max_size=200), min_size=1, max_size=5).map(
    lambda files: [("main.py", b"print(1)"), *files.items()]
)
TAR = FILES.map(tar_of)

schemathesis.openapi.media_type("application/zip", FILES.map(zip_of))
schemathesis.openapi.media_type("application/x-tar", TAR)
schemathesis.openapi.media_type("application/gzip", TAR.map(partial(packed, "gz")))
schemathesis.openapi.media_type("application/zstd", TAR.map(partial(packed, "zst")))

# In Python before 3.11.5 threads that parse at the same time fail now and then with "AST constructor
# recursion depth mismatch" (python/cpython#106905); Hypothesis does that to describe its functions.
PARSING = threading.Lock()
parse = ast.parse


def parse_alone(*args: Any, **kwargs: Any) -> Any:
    with PARSING:
        return parse(*args, **kwargs)


ast.parse = parse_alone

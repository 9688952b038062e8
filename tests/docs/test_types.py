"""Check the examples of the documents with a strict type checker, as a user would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHECKED = (
    # An editable install is not where a type checker looks.
    f"[mypy]\nstrict = true\nmypy_path = {ROOT}\nfollow_imports = silent\n"
    # It has no types; its users have to tell their own checker.
    "[mypy-aiohttp_sse_client.*]\nignore_missing_imports = true\n"
)
CACHE = ("--cache-dir", str(ROOT / ".mypy_cache"))


@pytest.mark.slow
def test_every_sample_is_typed(tmp_path: Path) -> None:
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for document in documents:
        name = document.stem.replace("-", "_").lower()
        for number, code in enumerate(FENCE.findall(document.read_text()), 1):
            (tmp_path / f"{name}_{number}.py").write_text(code)
    samples = sorted(path.name for path in tmp_path.iterdir())
    assert {"readme_1.py", "embedding_2.py", "clients_3.py", "backends_1.py"} <= set(samples)
    (tmp_path / "checked.ini").write_text(CHECKED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "checked.ini", *CACHE, *samples],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

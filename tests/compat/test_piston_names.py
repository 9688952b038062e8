"""What Piston's clients call their files, and what a compiler wants them to be called."""

from __future__ import annotations

import pytest

from streamer.compat.piston.request import main_name
from streamer.compat.piston.runtimes import Runtime


@pytest.mark.parametrize(
    ("name", "language", "code", "expected"),
    [
        (None, "java", "// public class Not\npublic final class Hello {}", "Hello.java"),
        ("a/Test.java", "java", "import x.y;\npublic class Hello {}", "a/Hello.java"),
        ("Test.java", "java", "class Hello {}", "Test.java"),
        (None, "c", "", "main.c"),
        ("prog", "c", "", "prog.c"),
        ("prog.txt", "c", "", "prog.txt.c"),
        ("prog.txt", "python", "", "prog.txt"),
        ("prog", "python", "", "prog.py"),
    ],
)
def test_the_file_that_is_run_is_named_as_its_language_wants(
    name: str | None, language: str, code: str, expected: str
) -> None:
    entry, compiled = {
        "java": ("Main.java", True),
        "c": ("main.c", True),
        "python": ("main.py", False),
    }[language]
    runtime = Runtime(language, language, (1, 0, 0), (), entry, compiled)
    assert main_name(name, runtime, code) == expected

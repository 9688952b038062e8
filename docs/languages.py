"""Write the table of docs/languages.md from the built-in languages: `make languages`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from streamer.model.job import MIB, Limits
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import Runtime
from streamer.worker.tools import tools_in

PAGE: Final = Path(__file__).with_name("languages.md")
MARKED: Final = re.compile(
    r"(?<=<!-- made by docs/languages.py -->\n).*?(?=<!-- end -->)", re.DOTALL
)

PACKAGES: Final = {
    "python": "python3",
    "javascript": "nodejs",
    "bash": "bash",
    "ruby": "ruby",
    "php": "php-cli",
    "perl": "perl",
    "lua": "lua5.4",
    "r": "r-base-core",
    "sql": "sqlite3",
    "c": "gcc libc6-dev",
    "cpp": "g++",
    "rust": "rustc",
    "go": "golang-go",
    "java": "default-jdk-headless",
    "kotlin": "kotlin",
    "typescript": "node-typescript",
    "csharp": "mono-mcs mono-runtime",
    "haskell": "ghc",
    "pascal": "fp-compiler fp-units-base",
    "ocaml": "ocaml",
}
"""Debian's, in which each language was tried."""


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        "| language | `language` | entry | Debian's packages | compiler | more than the default |",
        "|---|---|---|---|---|---|",
    ]
    for name, runtime in sorted(DEFAULT_RUNTIMES.items(), key=lambda item: item[1].title.lower()):
        names = ", ".join(f"`{word}`" for word in (name, *runtime.aliases))
        packages = ", ".join(f"`{word}`" for word in PACKAGES[name].split())
        compiler = "".join(f"`{tool}`" for tool in tools_in(runtime.compile))
        cells = (runtime.title, names, f"`{runtime.entry}`", packages, compiler, _more(runtime))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _more(runtime: Runtime) -> str:
    default = Limits()
    more = []
    for name, value in runtime.limits.items():
        if value > getattr(default, name):
            size = f"{value // MIB} MiB" if name.endswith("_bytes") else f"{value}"
            more.append(f"`{name}` {size}")
    return ", ".join(more)


if __name__ == "__main__":
    PAGE.write_text(MARKED.sub(lambda _: table(), PAGE.read_text()))

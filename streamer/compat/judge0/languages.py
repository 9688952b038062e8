"""The ids that Judge0 has for languages: those of its public versions 1.13 and 1.14."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import streamer

__all__ = ["IDS", "Listed", "listed"]

IDS: Final[Mapping[str, str]] = {
    "46": "bash",
    **dict.fromkeys(("48", "49", "50", "75", "103", "104", "110"), "c"),
    **dict.fromkeys(("52", "53", "54", "76", "105"), "cpp"),
    "51": "csharp",
    **dict.fromkeys(("60", "95", "106", "107"), "go"),
    "61": "haskell",
    **dict.fromkeys(("62", "91"), "java"),
    **dict.fromkeys(("63", "93", "97", "102"), "javascript"),
    **dict.fromkeys(("78", "111"), "kotlin"),
    "64": "lua",
    "65": "ocaml",
    "67": "pascal",
    "85": "perl",
    **dict.fromkeys(("68", "98"), "php"),
    **dict.fromkeys(("71", "92", "100", "109", "113"), "python"),
    **dict.fromkeys(("80", "99"), "r"),
    "72": "ruby",
    **dict.fromkeys(("73", "108"), "rust"),
    "82": "sql",
    **dict.fromkeys(("74", "94", "101"), "typescript"),
}
"""Our language for each id; ``[compat.judge0.languages]`` adds to them."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A language that can be run, with its id; `name` is as people read it, `language` is ours."""

    id: int
    name: str
    language: str
    entry: str
    compiled: bool

    def document(self) -> dict[str, object]:
        return {"id": self.id, "name": self.name}

    def in_full(self) -> dict[str, object]:
        more = {"is_archived": False, "source_file": self.entry}
        return {**self.document(), **more, "compile_cmd": None, "run_cmd": None}


def listed(known: Sequence[streamer.Language], ids: Mapping[str, str]) -> Mapping[int, Listed]:
    """Return the languages that can be run now by their ids, in the order of their names."""
    by_name = {name: one for one in known for name in (one.name, *one.aliases)}
    found = []
    for number, name in ids.items():
        language = by_name.get(name)
        if language is not None and language.available:
            version = f" ({language.version})" if language.version else ""
            title = f"{language.title.partition(' (')[0]}{version}"
            found.append(
                Listed(int(number), title, language.name, language.entry, language.compiled)
            )
    return {one.id: one for one in sorted(found, key=lambda one: (one.name, one.id))}

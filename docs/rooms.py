"""Draw the rooms of `streamer` and the imports between them: ``make architecture``.

The picture is made from the code; only the place of each room is written here. A number counts
pairs of modules, one of which imports the other; imports for annotations only do not count.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import grimp

PICTURE: Final = Path(__file__).parent / "rooms.svg"
WIDTH: Final = 960
ROW: Final = 92
BOX: Final = (112, 40)

# The middle of each room: pixels from the left, and the row.
PLACES: Final = {
    "web": (270, 3),
    "worker": (560, 3),
    "client": (76, 4),
    "sse": (203, 4),
    "jobs": (345, 4),
    "environments": (478, 4),
    "sandbox": (610, 4),
    "sandboxes": (762, 4),
    "plugins": (885, 4),
    "engine": (510, 5),
    "spi": (750, 5),
    "hookspecs": (885, 5),
    "installed": (630, 5),
    "packing": (90, 6),
    "saving": (203, 6),
    "eventlog": (330, 6),
}
# These import from nearly every room, and are drawn as bars that list what they import.
OUTER: Final = (
    "cli",
    "mcp",
    "supervisor",
    "testing",
    "doctor",
    "compat",
    "application",
    "compose",
    "engines",
)
OUTER_ROW: Final = 38
# Nearly every room imports these, so they are bars too, and have no arrows.
COMMON: Final = ("config", "model", "bounded", "errors")
# Modules that only re-export names of a room.
FACES: Final = ("streamer", "__main__", "events")

STYLE: Final = """
text { font: 14px sans-serif; fill: #222; text-anchor: middle; dominant-baseline: central }
rect { fill: #eef3fa; stroke: #4a6a94; rx: 5 }
.bar { fill: #f6f6f3; stroke: #8a8a80 }
.list { font-size: 12px; text-anchor: start; fill: #555 }
.name { text-anchor: start }
path { fill: none; stroke: #7d8ca0; marker-end: url(#head) }
.number { font-size: 11px; fill: #33435c; stroke: white; stroke-width: 4; paint-order: stroke }
"""
HEAD: Final = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} %d" role="img" \
aria-label="The rooms of streamer, and the imports between them">
<style>{STYLE}</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" \
orient="auto"><path d="M0 0L8 4L0 8z" style="fill:#7d8ca0;stroke:none"/></marker></defs>
<rect width="100%%" height="100%%" style="fill:white;stroke:none"/>
"""


def imports() -> Counter[tuple[str, str]]:
    """Return how many imports there are from one room to another."""
    graph = grimp.build_graph(
        "streamer", "sandboxes", exclude_type_checking_imports=True, cache_dir=None
    )
    counted: Counter[tuple[str, str]] = Counter()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            pair = _room(importer), _room(imported)
            if pair[0] != pair[1] and not set(pair) & set(FACES):
                counted[pair] += 1
    return counted


def picture(counted: Counter[tuple[str, str]]) -> str:
    """Return the SVG. Raises `ValueError` for a room that has no place here."""
    rooms = {room for pair in counted for room in pair}
    unplaced = rooms - {*PLACES, *OUTER, *COMMON}
    if unplaced:
        raise ValueError(f"give {', '.join(sorted(unplaced))} a place in {Path(__file__).name}")
    parts = [*_outer(counted), *_arrows(counted), *_boxes(rooms), *_common(counted)]
    height = max(row for _, row in PLACES.values()) * ROW + 16 + len(COMMON) * OUTER_ROW
    return HEAD % height + "\n".join(parts) + "\n</svg>\n"


def _room(module: str) -> str:
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "streamer" and rest else package


def _outer(counted: Counter[tuple[str, str]]) -> list[str]:
    parts = []
    for row, room in enumerate(OUTER):
        targets = sorted(
            (other, n) for (one, other), n in counted.items() if one == room and other not in COMMON
        )
        listed = ", ".join(f"{other} {n}" for other, n in targets)
        y = 20 + row * OUTER_ROW
        parts.append(f'<rect class="bar" x="20" y="{y}" width="{WIDTH - 40}" height="30"/>')
        parts.append(f'<text class="name" x="36" y="{y + 15}">{room}</text>')
        parts.append(f'<text class="list" x="120" y="{y + 15}">imports {escape(listed)}</text>')
    return parts


def _arrows(counted: Counter[tuple[str, str]]) -> list[str]:
    parts, numbers = [], []
    for (one, other), n in sorted(counted.items()):
        if one not in PLACES or other not in PLACES:
            continue
        (x1, y1), (x2, y2) = _middle(one), _middle(other)
        down = (y2 > y1) - (y2 < y1)
        y1, y2 = y1 + down * BOX[1] // 2, y2 - down * BOX[1] // 2
        if down:  # arrows of one room leave it apart from each other, towards where they go
            x1 += max(-40, min(40, (x2 - x1) // 5))
        else:  # in one row: from side to side
            side = BOX[0] // 2 if x2 > x1 else -BOX[0] // 2
            x1, x2 = x1 + side, x2 - side
        bend = (y2 - y1) * 9 // 20
        parts.append(f'<path d="M{x1} {y1}C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}"/>')
        # The middle of the curve.
        numbers.append(f'<text class="number" x="{(x1 + x2) // 2}" y="{(y1 + y2) // 2}">{n}</text>')
    return parts + numbers


def _boxes(rooms: set[str]) -> list[str]:
    parts = []
    for room in sorted(rooms & PLACES.keys()):
        x, y = _middle(room)
        left, top = x - BOX[0] // 2, y - BOX[1] // 2
        parts.append(f'<rect x="{left}" y="{top}" width="{BOX[0]}" height="{BOX[1]}"/>')
        parts.append(f'<text x="{x}" y="{y}">{room}</text>')
    return parts


def _common(counted: Counter[tuple[str, str]]) -> list[str]:
    top = max(row for _, row in PLACES.values()) * ROW + 4
    parts = []
    for row, room in enumerate(COMMON):
        total = sum(n for (_, other), n in counted.items() if other == room)
        y = top + row * OUTER_ROW
        parts.append(f'<rect class="bar" x="20" y="{y}" width="{WIDTH - 40}" height="30"/>')
        parts.append(f'<text class="name" x="36" y="{y + 15}">{room}</text>')
        parts.append(
            f'<text class="list" x="120" y="{y + 15}">imported {total} times, by nearly every room'
            "</text>"
        )
    return parts


def _middle(room: str) -> tuple[int, int]:
    x, row = PLACES[room]
    return x, row * ROW - 40


if __name__ == "__main__":
    PICTURE.write_text(picture(imports()), encoding="utf-8")
    sys.stdout.write(f"wrote {PICTURE}\n")

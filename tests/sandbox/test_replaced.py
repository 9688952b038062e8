"""What templates show is told from what has replaced it on the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from streamer.sandbox.host.replaced import what_is_at


def at(path: Path) -> tuple[object, ...]:
    return what_is_at([str(path)])[str(path)].shown


def test_a_file_is_told_from_one_that_has_replaced_it(tmp_path: Path) -> None:
    shown = tmp_path / "folder" / "file"
    shown.parent.mkdir()
    nothing = at(shown)
    shown.write_text("old")
    held = os.open(shown, os.O_RDONLY)  # as the mount of a sandbox does
    before = at(shown)
    assert before != nothing
    shown.write_text("new content")
    assert at(shown) == before
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").rename(shown)
    assert at(shown) != before
    os.close(held)


def test_new_content_is_told_from_what_it_was_before(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    os.utime(file, ns=(1, 1))
    before = what_is_at([str(file)])[str(file)]
    file.write_text("new")
    assert what_is_at([str(file)])[str(file)].changed_ns > before.changed_ns == 1
    os.utime(tmp_path, ns=(1, 1))
    (tmp_path / "another").touch()
    assert what_is_at([str(tmp_path)])[str(tmp_path)].changed_ns > 1


def test_a_replaced_folder_above_counts_too(tmp_path: Path) -> None:
    shown = tmp_path / "folder" / "file"
    for folder in (tmp_path / "folder", tmp_path / "other"):
        folder.mkdir()
        (folder / "file").write_text("the same")
    before = at(shown)
    (tmp_path / "folder").rename(tmp_path / "old")
    assert at(shown) != before
    (tmp_path / "folder").symlink_to("other")
    replaced = at(shown)
    assert replaced != before
    (tmp_path / "folder").unlink()
    (tmp_path / "folder").symlink_to("old")
    assert at(shown) == before


MOUNTING = """
import subprocess, sys
from streamer.sandbox.host.replaced import what_is_at

def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)

shown, beside, link = paths = sys.argv[1:]
def look():
    return {path: what.shown for path, what in what_is_at(paths).items()}

seen = [look()]
for place in (f"{shown}/a b", shown):
    mount("-t", "tmpfs", "none", place)
    seen.append(look())
for changed in (shown, link):
    assert len({found[changed] for found in seen}) == 3
assert len({found[beside] for found in seen}) == 1
"""


def test_what_is_mounted_in_a_folder_replaces_a_part_of_it(tmp_path: Path) -> None:
    shown, beside, link = (tmp_path / name for name in ("s", "s2", "link"))
    (shown / "a b").mkdir(parents=True)
    beside.mkdir()
    link.symlink_to("s")
    command = ("unshare", "--map-root-user", "--mount", sys.executable, "-c", MOUNTING)
    subprocess.run([*command, shown, beside, link], check=True)

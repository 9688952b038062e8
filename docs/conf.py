"""Settings of Sphinx, which `make docs` builds the site with; docs/README.md is its first page.

The pages stay as a code host shows them: plain Markdown, with links between files. The navigation
is made of the lists in docs/README.md, and Sphinx refuses a page that is in none of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from streamer import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "streamer"
version = release = __version__
extensions = ["myst_parser"]
# The sources are the root of the repository, so that links lead where they lead on a code host.
root_doc = "docs/README"
include_patterns = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    *("docs/*.md", "examples/*/README.md"),
]
nitpicky = True

# The anchors of headings, as code hosts make them.
myst_heading_anchors = 6

html_theme = "furo"
html_title = f"streamer {__version__}"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False

PART = re.compile(r"^## (.+)\n((?:(?!## ).*\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^- \[([^\]]+)\]\(([^)#:]+)\.md\)", re.MULTILINE)


def navigation(text: str) -> str:
    """Return the sidebar's tables of contents: one for each part, of the entries of its lists."""
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n"
        + "".join(f"{name} <{target}>\n" for name, target in ENTRY.findall(body))
        + "```\n"
        for title, body in PART.findall(text)
    )


def add_navigation(_app: Sphinx, name: str, source: list[str]) -> None:
    """Add them to the first page, when Sphinx has read it (the event ``source-read``).

    What an example says of itself is reached by links from other pages only.
    """
    if name == root_doc:
        source[0] += navigation(source[0])
    elif name.startswith("examples/"):
        source[0] = f"---\norphan: true\n---\n{source[0]}"


def setup(app: Sphinx) -> None:
    """Connect to Sphinx, which calls this."""
    app.connect("source-read", add_navigation)

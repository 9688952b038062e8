"""What a shell may complete after an option or in the place of an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

__all__ = ["backend_names", "files", "folders", "language_names"]


def files(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Let the shell complete a path."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(begun, type="file")]


def folders(
    _context: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Let the shell complete the path of a folder."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(begun, type="dir")]


def language_names(
    _context: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return the built-in languages; a service may have others."""
    from click.shell_completion import CompletionItem

    from streamer.config.schema import Config

    return [
        CompletionItem(name, help=runtime.title)
        for name, runtime in sorted(Config().runtimes.items())
        if name.startswith(begun)
    ]


def backend_names(
    _context: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return the built-in backends, without loading plugins."""
    from click.shell_completion import CompletionItem

    from streamer.plugins import BUILTIN

    return [CompletionItem(name) for name in ("auto", *BUILTIN) if name.startswith(begun)]

"""Write the manual page streamer(1) from the commands: ``python -m streamer.cli.manpage FILE``.

The build runs it, so it needs nothing but click. The macros are those of man(7), which groff and
mandoc both know.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

import streamer
from streamer.cli.main import cli

__all__ = ["manual_page"]

SECTIONS: Final = {
    "EXIT STATUS": (
        ("0", "Done."),
        ("1", "What was asked for does not hold: see the command."),
        ("2", "The command line, the configuration or the job is wrong."),
        ("124", "run, follow: a time limit ended the program."),
        ("125", "The program could not be run, or the service gave no answer."),
        ("128+N", "run, follow: signal N ended the program; 137 also means another limit."),
        ("130", "Ctrl-C."),
        ("141", "Nobody reads the output any more."),
    ),
    "ENVIRONMENT": (
        ("STREAMER_CONFIG", "The configuration file, unless --config names one."),
        ("STREAMER_SECTION__KEY", "One value of the configuration, as STREAMER_SERVER__PORT."),
        ("STREAMER_PROFILE", "The profile, unless --profile names one."),
        ("STREAMER_URL", "The address of the service, for commands about one."),
        ("STREAMER_TOKEN", "The token for it."),
    ),
    "FILES": (
        ("./config.toml", "The configuration of serve, config and token."),
        ("~/.config/streamer/config.toml", "The configuration of all other commands."),
    ),
}
"""The sections that no command can tell, each a list of terms."""


def manual_page() -> str:
    """Return the page."""
    return "\n".join([*_head(), *_commands(cli, "streamer"), *_tail()]) + "\n"


def _head() -> Iterator[str]:
    yield f'.TH STREAMER 1 "" "streamer {streamer.__version__}" "User Commands"'
    yield ".SH NAME"
    yield rf"streamer \- {_text('run programs in sandboxes and stream their output')}"
    yield ".SH SYNOPSIS"
    yield r".B streamer"
    yield r".I COMMAND"
    yield "[options] [arguments]"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(cli.help or "")
    yield ".SH COMMANDS"


def _commands(group: click.Group, path: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield from _command(command, f"{path} {name}")


def _command(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(command, info_name=path, help_option_names=["-h", "--help"])
    yield f".SS {_text(path)}"
    yield f".B {_text(path)}"
    yield _text(" ".join(command.collect_usage_pieces(context)))
    yield ".PP"
    yield from _paragraphs(command.help or "")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option) and parameter.name != "help":
            yield from _term(*record)


def _tail() -> Iterator[str]:
    for title, terms in SECTIONS.items():
        yield f".SH {title}"
        for term, meaning in terms:
            yield from _term(term, meaning)
    yield ".SH SEE ALSO"
    yield r".BR bwrap (1),"
    yield r".BR firejail (1)"


def _term(term: str, meaning: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_text(term)}"
    yield _text(" ".join(meaning.split()))


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _text(text: str) -> str:
    """Return a line in which nothing is a request or an escape of roff."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    plain = "".join(c if c.isascii() else rf"\[u{ord(c):04X}]" for c in escaped)
    return rf"\&{plain}" if plain.startswith((".", "'")) else plain


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(manual_page(), encoding="ascii")

"""Signals have the names that bash gives them."""

from __future__ import annotations

import signal
import subprocess

from streamer.model.signals import signal_name, signal_number


def test_each_signal_has_the_name_that_bash_lists() -> None:
    numbers = sorted(int(number) for number in signal.valid_signals())
    listed = subprocess.run(
        ["bash", "-c", 'for number; do kill -l "$number"; done', "bash", *map(str, numbers)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert [signal_name(number) for number in numbers] == [f"SIG{name}" for name in listed]
    assert [signal_number(f"SIG{name}") for name in listed] == numbers


def test_another_name_of_a_signal_is_known_too() -> None:
    assert signal_number("SIGPOLL") == signal.SIGIO
    assert signal_number("SIGCLD") == signal.SIGCHLD


def test_a_signal_that_the_c_library_keeps_for_itself_has_its_number() -> None:
    kept = int(signal.SIGRTMIN) - 1
    assert signal_name(kept) == f"SIG{kept}"
    assert signal_number(f"SIG{kept}") == kept


def test_what_is_no_signal_has_no_number() -> None:
    for name in ("", "INT", "int", "SIG_IGN", "SIGRTMIN+99", "SIG65", "SIGRTMIN+0"):
        assert signal_number(name) is None, name

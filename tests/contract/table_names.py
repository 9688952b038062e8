"""Names that people type: languages, backends, commands and options, and Python's."""

from __future__ import annotations

from typing import Final

from tests.contract import ADDED, KEPT, Mark

LANGUAGES: Final[dict[str, Mark]] = {
    "python": KEPT,
    "javascript": KEPT,
    "node": KEPT,
    "typescript": 11,
    "bash": KEPT,
    "c": KEPT,
    "cpp": KEPT,
    "c++": KEPT,
    "rust": 11,
    "go": 11,
    "java": 11,
    "ruby": 11,
    "php": 11,
    "perl": 11,
    "lua": 11,
    "r": 11,
    "sql": 11,
    "py": ADDED,
    "python3": ADDED,
    "js": ADDED,
    "shell": ADDED,
    "cc": ADDED,
    "gcc": ADDED,
    "cxx": ADDED,
}
"""Names and aliases."""

ENTRIES: Final = {
    "python": "main.py",
    "javascript": "main.js",
    "bash": "main.sh",
    "c": "main.c",
    "cpp": "main.cpp",
}

BACKENDS: Final[dict[str, Mark]] = {"plain": KEPT, "bwrap": KEPT, "firejail": KEPT, "landlock": 9}

COMMANDS: Final[dict[str, Mark]] = {
    "serve": KEPT,
    "run": KEPT,
    "doctor": KEPT,
    "config": KEPT,
    "runtimes": KEPT,
    "sandboxes": KEPT,
    "version": KEPT,
}

OPTIONS: Final[dict[str, Mark]] = {
    "serve --config": KEPT,
    "serve --host": KEPT,
    "serve --port": KEPT,
    "serve --sandbox": KEPT,
    "serve --profile": KEPT,
    "serve --set": KEPT,
    "serve --role": KEPT,
    "serve --workers": KEPT,
    "serve --demo": ADDED,
    "run --language": KEPT,
    "run --sandbox": KEPT,
    "run --url": KEPT,
    "run --limit": KEPT,
    "run --file": KEPT,
    "run --config": KEPT,
    "run --raw": 8,
    "run --env": ADDED,
    "run --token": ADDED,
    "run --profile": ADDED,
    "run --set": ADDED,
    "doctor --json": KEPT,
    "doctor --config": KEPT,
    "doctor --sandbox": ADDED,
    "doctor --profile": ADDED,
    "doctor --set": ADDED,
    "config --show-origin": KEPT,
    "config --config": KEPT,
    "config --sandbox": ADDED,
    "config --profile": ADDED,
    "config --set": ADDED,
    "runtimes --config": KEPT,
    "runtimes --json": ADDED,
    "runtimes --sandbox": ADDED,
    "runtimes --profile": ADDED,
    "runtimes --set": ADDED,
    "sandboxes --config": KEPT,
    "sandboxes --json": ADDED,
    "sandboxes --sandbox": ADDED,
    "sandboxes --profile": ADDED,
    "sandboxes --set": ADDED,
}
"""Each takes --help besides."""

PYTHON: Final[dict[str, Mark]] = {
    "streamer.setup": KEPT,
    "streamer.create_app": KEPT,
    "streamer.get_service": KEPT,
    "streamer.JobSpec": KEPT,
    "streamer.Client": KEPT,
    "streamer.hookimpl": KEPT,
    "streamer.Config": ADDED,
    "streamer.Event": ADDED,
    "streamer.Limits": ADDED,
    "streamer.SourceFile": ADDED,
    "streamer.get_sessions": ADDED,
    "streamer.load_config": ADDED,
    "streamer.spi.Backend": KEPT,
    "streamer.spi.BackendUnavailable": ADDED,
    "streamer.spi.Host": ADDED,
    "streamer.spi.Identity": ADDED,
    "streamer.spi.Isolation": ADDED,
    "streamer.spi.LaunchPlan": ADDED,
    "streamer.spi.Limits": ADDED,
    "streamer.spi.SandboxJob": ADDED,
    "streamer.spi.hookimpl": ADDED,
    "streamer.spi.hookspec": ADDED,
    "streamer.testing.ConformanceSuite": KEPT,
    "streamer.testing.EscapeSuite": KEPT,
    "streamer.testing.ATTACKS": ADDED,
    "streamer.testing.Attack": ADDED,
    "streamer.testing.Campaign": ADDED,
    "streamer.testing.NoProof": ADDED,
    "streamer.testing.Outcome": ADDED,
    "streamer.testing.open_campaign": ADDED,
    "streamer.hookspecs.streamer_backends": KEPT,
    "streamer.hookspecs.streamer_authorize": KEPT,
    "streamer.hookspecs.streamer_engine": KEPT,
    "streamer.hookspecs.streamer_job_finished": ADDED,
}
"""What the public modules export."""

SPEC: Final[dict[str, Mark]] = {
    "language": KEPT,
    "command": KEPT,
    "code": KEPT,
    "files": KEPT,
    "project_id": 11,
    "entry": KEPT,
    "args": KEPT,
    "env": KEPT,
    "stdin": KEPT,
    "interactive": KEPT,
    "terminal": 11,
    "limits": KEPT,
    "network": KEPT,
    "sandbox": KEPT,
    "artifacts": 11,
    "output_encoding": KEPT,
    "metadata": KEPT,
    "session_id": 11,
    "environment": 11,
    "cases": 11,
    "stop_on_failure": 11,
    "webhook": 12,
    "retry": 12,
    "priority": 12,
}
"""The arguments of `JobSpec` that a job can really be submitted with."""

CLIENT: Final[dict[str, Mark]] = {
    "run": KEPT,
    "submit": KEPT,
    "events": KEPT,
    "job": KEPT,
    "cancel": KEPT,
    "write": KEPT,
    "signal": KEPT,
}
"""The methods of `Client`: the verbs of the HTTP interface."""

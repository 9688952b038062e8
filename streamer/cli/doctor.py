"""Show in the terminal what `streamer doctor` has found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from streamer.doctor.report import BackendReport, Outcome, Report
from streamer.model.terminal import visible

__all__ = ["show"]

STYLES: Final[Mapping[Outcome, str]] = {"ok": "green", "fails": "bold red", "not promised": "dim"}


def show(report: Report, console: Console) -> None:
    host = report.host
    system = f"{host.system}, Linux {host.kernel}, {host.machine}"
    console.print(system, highlight=False, markup=False)
    groups = host.cgroup.level or f"none: {host.cgroup.reason}"
    user = "root" if host.root else "an ordinary user"
    console.print(f"running as {user}; control groups: {groups}", highlight=False, markup=False)
    if host.cgroup.remedy:
        console.print(f"  to get them: {host.cgroup.remedy}", highlight=False, markup=False)
    for warning in report.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False)
    for environment in report.environments:
        state = environment.reason or "can be used"
        line = f"environment {environment.name}: {visible(state)}"
        console.print(line, highlight=False, markup=False)
    for backend in report.backends:
        console.print()
        _show_backend(backend, console, chosen=backend.name == report.chosen)
    console.print()
    if report.ok:
        console.print(f"{report.chosen} keeps all its promises on this host.", style="green")
    elif report.chosen:
        console.print("The configured sandbox does not keep its promises.", style="bold red")
    else:
        console.print(f"sandbox.backend = {report.configured}: no sandbox works.", style="bold red")


def _show_backend(backend: BackendReport, console: Console, *, chosen: bool) -> None:
    use = ", in use" if chosen else ""
    console.print(f"{backend.name} ({backend.isolation}{use})", style="bold", highlight=False)
    if wrapper := backend.wrapper:
        setuid = "setuid" if wrapper.setuid else "not setuid"
        version = f"version {wrapper.version or 'unknown'}"
        console.print(f"{wrapper.command}: {version}, {setuid}", highlight=False, markup=False)
    for warning in backend.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False)
    if backend.template:
        console.print(f"template: {visible(backend.template)}", highlight=False, markup=False)
    if backend.warm:
        console.print(f"warm: {visible(backend.warm)}", highlight=False, markup=False)
    for language, use in backend.forks.items():
        console.print(f"forks of {language}: {visible(use)}", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    if not backend.available:
        table.add_row("[bold red]not available", escape(visible(backend.reason)))
        for remedy in backend.remedies:
            table.add_row("remedy", escape(visible(remedy)))
    for probe in backend.probes:
        detail = f"{probe.enforced_by}; {probe.detail}" if probe.enforced_by else probe.detail
        style = STYLES[probe.outcome]
        # A failure must stand out without colours too.
        outcome = probe.outcome.upper() if probe.outcome == "fails" else probe.outcome
        table.add_row(f"[{style}]{outcome}", probe.name, escape(visible(detail)))
        if probe.remedy:
            table.add_row("", "remedy", escape(visible(probe.remedy)))
    console.print(table)

"""Write the page that shows which backend withstands which attack, from a real run.

``python -m streamer.testing.matrix FILE`` runs every attack on each built-in backend that works on
this host. If one does not keep its promises, it writes nothing and exits with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from streamer.errors import BackendUnavailable
from streamer.plugins import load_backends, load_plugins
from streamer.spi import Backend, Isolation
from streamer.testing.attack import Attack, NoProof
from streamer.testing.attacks import ATTACKS, THEMES
from streamer.testing.campaign import Campaign, Outcome, open_campaign
from streamer.testing.failures import FAILURES

__all__ = ["main", "page", "run"]

HEAD: Final = """\
# Attacks and backends

Every attack of `streamer.testing`, on each backend that comes with streamer. `make escape-matrix`
runs them and writes this page; a test fails if an attack is added or a promise changes without it.

It was run on Linux {kernel}, {machine}, as {user}; control groups: {groups}.

- **held**: the backend promises to withstand it, and did.
- *held*, *succeeds*: the backend does not promise to withstand it, for one of the
  [reasons](#what-is-not-promised) below; this is the result on that machine.

Each attack is judged on the host wherever possible (sockets that were or were not connected to,
files that did or did not change, processes that are or are not there), then by the job's verdict,
and last by its own output. After each attack, nothing of the job may be alive or left on the disk,
its stream must have exactly one verdict, and the service must still work.

There are {count} attacks.
"""


async def run(backend: type[Backend]) -> tuple[str, list[Outcome]]:
    """Run all attacks on one backend; return the level of its control groups, and the outcomes.

    Raises `BackendUnavailable`.
    """
    async with open_campaign(backend) as campaign:
        order = sorted(ATTACKS, key=lambda attack: attack.alone)
        return campaign.service.worker.cgroup_level or "none", [
            await outcome for outcome in [asyncio.create_task(_attempt(campaign, a)) for a in order]
        ]


async def _attempt(campaign: Campaign, attack: Attack) -> Outcome:
    try:
        return await campaign.attempt(attack)
    except NoProof as failure:
        return Outcome(attack.name, campaign.not_promised(attack), (), (str(failure),))


def page(groups: str, results: Mapping[str, Sequence[Outcome]]) -> str:
    by_name = {
        backend: {outcome.attack: outcome for outcome in outcomes}
        for backend, outcomes in results.items()
    }
    parts = [
        HEAD.format(
            kernel=".".join(platform.release().split(".")[:2]),
            machine=platform.machine(),
            user="root" if os.geteuid() == 0 else "an ordinary user",
            groups=groups,
            count=len(ATTACKS),
        )
    ]
    for theme, attacks in THEMES.items():
        parts.append(f"## {theme}\n")
        parts.append(_table(("attack", *results), (_row(attack, by_name) for attack in attacks)))
    parts.append("## What is not promised\n")
    parts.append(_table(("backend", "reason", "attacks"), _reasons(results)))
    parts.append("## The failures of others that they are about\n")
    parts.append(
        "A failure without an attack does not depend on the backend; other tests cover it.\n"
    )
    parts.append(_table(("", "failure", "attacks"), map(_failure, FAILURES)))
    return "\n".join(parts)


def _row(attack: Attack, results: Mapping[str, Mapping[str, Outcome]]) -> list[str]:
    cells = []
    for outcomes in results.values():
        outcome = outcomes[attack.name]
        word = "succeeds" if outcome.achieved else "held"
        cells.append(f"*{word}*" if outcome.not_promised else f"**{word}**")
    return [attack.name, *cells]


def _reasons(results: Mapping[str, Sequence[Outcome]]) -> list[list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for backend, outcomes in results.items():
        for outcome in outcomes:
            if outcome.not_promised:
                found.setdefault((backend, outcome.not_promised), []).append(outcome.attack)
    return [
        [backend, reason, "; ".join(sorted(attacks))]
        for (backend, reason), attacks in found.items()
    ]


def _failure(number: int) -> list[str]:
    names = [attack.name for attack in ATTACKS if number in attack.covers]
    shown = "; ".join(names[:3]) + (f"; {len(names) - 3} more" if len(names) > 3 else "")
    return [str(number), FAILURES[number], shown]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '') for cell in row)} |\n" for row in lines)


def _built_in() -> list[type[Backend]]:
    """Return the backends, the weakest first."""
    found = load_backends(load_plugins(), {}).values()
    ours = [type(b) for b in found if type(b).__module__.startswith("sandboxes.")]
    return sorted(ours, key=lambda backend: Isolation(backend.isolation))


def main() -> None:
    """Run every attack on every built-in backend and write the page."""
    parser = argparse.ArgumentParser(prog="streamer.testing.matrix", description=main.__doc__)
    parser.add_argument("file", metavar="FILE", type=Path, help="where the page is written")
    file: Path = parser.parse_args().file
    results, levels, faults = {}, set(), 0
    for backend in _built_in():
        try:
            level, outcomes = asyncio.run(run(backend))
        except BackendUnavailable as unavailable:
            sys.exit(f"{backend.name}: {unavailable.message}")
        levels.add(level)
        results[backend.name] = outcomes
        broken = [outcome for outcome in outcomes if outcome.faults]
        sys.stdout.write(
            f"{backend.name}: {len(outcomes)} attacks, {len(broken)} broke a promise\n"
        )
        for outcome in broken:
            sys.stderr.write(f"  {outcome.attack}: {'; '.join(outcome.faults)}\n")
        faults += len(broken)
    if faults:
        sys.exit(1)
    file.write_text(page(" ".join(sorted(levels)), results))


if __name__ == "__main__":
    main()

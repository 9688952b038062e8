"""The escape suite: every attack on one backend, each a test case."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from streamer.testing.advice import advice
from streamer.testing.attack import Attack
from streamer.testing.attacks import ATTACKS
from streamer.testing.campaign import Campaign, Outcome, open_campaign
from streamer.testing.suite import Suite

__all__ = ["EscapeSuite"]


class EscapeSuite(Suite):
    """Derive it in a test module, name the backend, and run pytest.

    What a backend must withstand follows from its `isolation`; list in `exceptions` where it
    promises less. An attack that it does not promise to withstand is run too, and its result is in
    the property ``not promised`` of the test case. Several attacks run at a time, and only the
    selected ones. With pytest-xdist use ``--dist loadscope``: each process that is given one of
    them runs all.
    """

    exceptions: ClassVar[Mapping[str, str]] = {}
    """Names of attacks that this backend does not promise to withstand, with the reasons."""
    attacks: ClassVar[Sequence[Attack]] = ATTACKS

    _campaign: ClassVar[Campaign]
    _outcomes: ClassVar[dict[str, asyncio.Task[Outcome]]]

    @classmethod
    async def start(cls) -> None:
        cls._outcomes = {}
        cls._campaign = await cls._stack.enter_async_context(
            open_campaign(
                cls.backend, options=cls.options, config=cls.config, exceptions=cls.exceptions
            )
        )
        cls._stack.push_async_callback(cls._abandon)

    @classmethod
    async def _abandon(cls) -> None:
        for task in cls._outcomes.values():
            task.cancel()
        await asyncio.gather(*cls._outcomes.values(), return_exceptions=True)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Make a test case of each attack; those that must run alone come last."""
        if "attack" in metafunc.fixturenames:
            attacks = sorted(self.attacks, key=lambda attack: attack.alone)
            metafunc.parametrize("attack", attacks, ids=[attack.name for attack in attacks])

    def test_attack(
        self, attack: Attack, request: Any, record_property: Callable[[str, object], None]
    ) -> None:
        selected = [
            item.callspec.params["attack"]
            for item in request.session.items
            if item.cls is type(self) and "attack" in getattr(item, "fixturenames", ())
        ]
        outcome = self.wait(self._outcome(attack, selected))
        if outcome.not_promised:
            record_property("not promised", "; ".join(outcome.achieved) or "held all the same")
        told = [*outcome.faults, advice(attack, self._campaign.backend)]
        assert not outcome.faults, "\n".join(told)

    def test_exceptions_name_attacks(self) -> None:
        """Fail if `exceptions` names an attack that does not exist."""
        unknown = self.exceptions.keys() - {attack.name for attack in self.attacks}
        assert not unknown, f"unknown attacks: {unknown}"

    @classmethod
    async def _outcome(cls, attack: Attack, selected: Sequence[Attack]) -> Outcome:
        """Return the outcome of one attack; the first call starts all selected attacks.

        A failure is forgotten, so that whoever repeats its test repeats the attack.
        """
        for each in (attack,) if cls._outcomes else (*selected, attack):
            if each.name not in cls._outcomes:
                task = asyncio.create_task(cls._campaign.attempt(each))
                cls._outcomes[each.name] = task
        failed = True
        try:
            outcome = await cls._outcomes[attack.name]
            failed = bool(outcome.faults)
            return outcome
        finally:
            if failed:
                del cls._outcomes[attack.name]

"""What every sandbox host must do, as runnable checks: `CHECKS` is run over each host by its tests.

    for check in CHECKS:
        if check.need not in lacks(host):
            await check.run(host)

A check fails by AssertionError. `need` names the wall or limit it leans on; a host that cannot offer one says so in an
attribute ``lacks: frozenset[str]`` (and in words in `weaknesses()`), and the checks that need it do not apply to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from palmette.sandbox.api import Host
from palmette.sandbox.conformance import abuse, allow, commands, files, life, network, ports, state, streams, walls

NEEDS = (
    *("", "paths", "processes", "walls", "network", "filter", "user", "root", "system", "cpu", "memory", "pids"),
    *("disk", "fork", "pause", "streams", "bounds", "ports", "allow"),
)
_BEHIND_WALLS = frozenset(("processes", "filter", "user", "root", "system", "memory", "pids", "disk", "cpu"))


@dataclass(frozen=True, slots=True)
class Check:
    """One behaviour; `need` is one of `NEEDS`, "" for what every host must do."""

    name: str
    need: str
    run: Callable[[Host], Awaitable[None]]


def lacks(host: Host) -> frozenset[str]:
    """Return the needs that `host` declares it cannot meet; where there are no walls, nothing is run against them."""
    declared: frozenset[str] = getattr(host, "lacks", frozenset())
    return declared | _BEHIND_WALLS if "walls" in declared else declared


def _checks() -> tuple[Check, ...]:
    found = []
    for area in (commands, files, life, network, allow, ports, state, streams, walls):
        for need, functions in area.CHECKS.items():
            assert need in NEEDS, need
            found += [Check(f.__name__.removeprefix("check_"), need, f) for f in functions]
    found += [Check(f"abuse_{attempt.name}", attempt.need, attempt.check) for attempt in abuse.ATTEMPTS]
    return tuple(found)


CHECKS = _checks()

"""Every host passes the shipped suite, but for what it says it lacks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from palmette.sandbox.conformance import CHECKS, Check, lacks
from palmette.sandbox.hosts import HOSTS, open_host

_ELSEWHERE = ("bubblewrap", "docker", "e2b", "shards")  # not like the others: test_sandbox_<name>.py goes through all
_PROFILES = ("namespace:root-inside", "namespace:rootless")  # other walls, the same agent behind them
_OF_A_PROFILE = ("paths", "processes", "walls", "network", "filter", "user", "root", "system", "memory", "pids", "cpu")
_OF_A_PROFILE += ("disk", "fork")
_CASES = [
    (name, check)
    for name in sorted(set(HOSTS) - {*_ELSEWHERE, "namespace:root"})
    for check in CHECKS
    if name not in _PROFILES or check.need in _OF_A_PROFILE
]


@pytest.mark.parametrize(("name", "check"), _CASES, ids=[f"{name}-{check.name}" for name, check in _CASES])
async def test_conformance(name: str, check: Check):
    if name == "namespace:root-inside" and os.geteuid():
        pytest.skip("needs root")
    host = open_host(name)
    if check.need in lacks(host):
        pytest.skip(f"{name} says it lacks {check.need}")
    try:
        await check.run(host)
    finally:
        await host.close()


def test_nothing_is_tried_against_a_host_without_walls():
    tried = {check.name for check in CHECKS if check.need not in lacks(open_host("fake"))}
    dangerous = {"privileged_calls_fail", *(check.name for check in CHECKS if check.name.startswith("abuse_"))}
    assert tried & dangerous == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_an_attack_holds_back_where_it_would_succeed():
    host = open_host("fake")
    for check in CHECKS:  # one that has no wall to meet, by mistake
        if check.name in ("privileged_calls_fail", "abuse_mounts_and_namespaces"):
            before = Path("/proc/self/mountinfo").read_text()  # noqa: ASYNC240
            with pytest.raises(AssertionError, match="nothing is tried"):
                await check.run(host)
            assert Path("/proc/self/mountinfo").read_text() == before  # noqa: ASYNC240
    await host.close()


def test_what_is_lacking_is_said():
    assert len(CHECKS) >= 30
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for name in set(HOSTS) - ({"namespace:root", "namespace:root-inside"} if os.geteuid() else set()):
        host = open_host(name)
        assert bool(lacks(host)) == bool(host.weaknesses()), name


def test_checks_of_walls_are_not_run_without_any():
    """The fake host runs commands as this very user: a check that tries to mount or to reboot would do so here."""
    harmless = {"", "bounds", "fork", "pause", "streams", "ports"}
    assert {check.need for check in CHECKS} - lacks(open_host("fake")) <= harmless

"""Every host passes the shipped suite, but for what it says it lacks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from palmette.sandbox.conformance import CHECKS, Check, attacks, lacks
from palmette.sandbox.hosts import HOSTS, open_host

_ELSEWHERE = ("bubblewrap", "docker", "e2b", "shards")  # not like the others: test_sandbox_<name>.py goes through all
_PROFILES = ("namespace:root-inside", "namespace:rootless")  # other walls, the same agent behind them
_OF_A_PROFILE = ("paths", "processes", "walls", "network", "filter", "user", "root", "system", "memory", "pids", "cpu")
_OF_A_PROFILE += ("disk", "fork")
_OF_THE_AGENT = ("abuse_output_floods", "abuse_stopped_and_stubborn_processes", "abuse_races_on_copy_out")  # and slow
_CASES = [
    (name, check)
    for name in sorted(set(HOSTS) - {*_ELSEWHERE, "namespace:root"})
    for check in CHECKS
    if name not in _PROFILES or (check.need in _OF_A_PROFILE and check.name not in _OF_THE_AGENT)
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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_an_attack_holds_back_where_it_would_succeed():
    done = subprocess.run([sys.executable, "-I", "-c", attacks.PRELUDE], capture_output=True, text=True)
    assert (done.returncode, "nothing is tried" in done.stderr) == (1, True), done


def test_what_is_lacking_is_said():
    assert len(CHECKS) >= 30
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for name in set(HOSTS) - ({"namespace:root", "namespace:root-inside"} if os.geteuid() else set()):
        host = open_host(name)
        assert bool(lacks(host)) == bool(host.weaknesses()), name


def test_checks_of_walls_are_not_run_without_any():
    """The fake host runs commands as this very user: a check that tries to mount or to reboot would do so here."""
    harmless = {"", "bounds", "fork", "pause", "streams", "ports", "allow"}
    assert {check.need for check in CHECKS} - lacks(open_host("fake")) <= harmless

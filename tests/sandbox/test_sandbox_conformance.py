"""Every host passes the shipped suite, but for what it says it lacks."""

from __future__ import annotations

import pytest

from palmette.sandbox.conformance import CHECKS, Check, lacks
from palmette.sandbox.hosts import HOSTS, open_host

_ELSEWHERE = ("bubblewrap", "docker", "e2b")  # need something of the machine: test_sandbox_<name>.py goes through all


@pytest.fixture(params=sorted(set(HOSTS) - set(_ELSEWHERE)))
async def host(request: pytest.FixtureRequest):
    host = open_host(request.param)
    yield host
    await host.close()


@pytest.mark.parametrize("check", CHECKS, ids=[check.name for check in CHECKS])
async def test_conformance(host, check: Check):
    if check.need in lacks(host):
        pytest.skip(f"{host.name} says it lacks {check.need}")
    await check.run(host)


def test_what_is_lacking_is_said():
    assert len(CHECKS) >= 30
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for name in HOSTS:
        host = open_host(name)
        assert bool(lacks(host)) == bool(host.weaknesses()), name

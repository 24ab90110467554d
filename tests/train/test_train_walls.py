"""A recipe's sandboxes: limits for all, a network for agents and references only."""

from __future__ import annotations

import dataclasses

import pytest

from palmette.sandbox.api import Limits, Spec
from palmette.sandbox.bounded import BoundedHost
from palmette.sandbox.fake import FakeHost
from palmette.train.walls import SandboxConfig, open_walls


class Noting(FakeHost):
    """Starts what it is asked for, without the network that it cannot give, and remembers what that was."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Spec] = []

    async def start(self, spec: Spec):
        self.asked.append(spec)
        return await super().start(dataclasses.replace(spec, network=()))


async def test_limits_are_put_in_and_room_that_somebody_needs_stays() -> None:
    noting = Noting()
    host = BoundedHost(noting, limits={"memory_mb": 300, "pids": 20, "cpus": None}, network=("b.example",))
    for limits in (Limits(), Limits(memory_mb=1024, pids=10)):
        await (await host.start(Spec(limits=limits, network=("a.example",)))).close()
    assert [(s.limits.memory_mb, s.limits.pids, s.limits.cpus) for s in noting.asked] == [
        (300, 20, None),
        (1024, 20, None),
    ]
    assert {spec.network for spec in noting.asked} == {("a.example", "b.example")}
    assert "network" in host.lacks
    assert host.name == noting.name
    await host.close()
    with pytest.raises(ValueError, match="no limit memory"):
        BoundedHost(noting, limits={"memory": 1})


async def test_agents_reach_the_list_and_verifiers_nothing() -> None:
    config = SandboxConfig.model_validate({"network": ["localhost@127.0.0.0/8:8"], "limits": {"memory_mb": 200}})
    agents, verifiers = open_walls(config)
    asks = 'echo "$HTTP_PROXY"'
    try:
        said = []
        for host in (agents, verifiers):
            sandbox = await host.start(Spec(owner="test/walls"))
            said.append((await sandbox.exec(asks)).stdout.decode())
            await sandbox.close()
        assert said[0].startswith("http://")
        assert said[1].startswith("\n")
    finally:
        await verifiers.close()

"""A host of sandboxes over several processes, for more of them than one process can hold.

Each shard is a process with an event loop, a namespace host and a fork server of its own. A sandbox goes to the shard
that has the fewest and stays there, with its forks; a shard that dies takes only its own sandboxes along.
"""

from __future__ import annotations

import asyncio
import os

from palmette.sandbox.api import SandboxLost, Spec, StartFailed
from palmette.sandbox.layout import check_spec
from palmette.sandbox.namespace import NamespaceHost
from palmette.sandbox.pace import KILLS_PER_S, Pace
from palmette.sandbox.profile import Profile
from palmette.sandbox.shards.message import Born
from palmette.sandbox.shards.sandbox import ShardSandbox
from palmette.sandbox.shards.shard import Shard, ShardLost

_FIRST = 4  # shards at most before any is full
_MOST = 32
_TRIES = 3  # of a start whose shard dies meanwhile
_LOOK_S, _DEAF_S = 10.0, 120.0  # between two looks at the shards; after which one that says nothing is ended


class ShardsHost:
    """Starts sandboxes in processes of its own, which are launched at the first start."""

    name = "shards"

    def __init__(self, shards: int | None = None, profile: Profile | None = None) -> None:
        """Begin with this many shards (default: one a core, at most four); more come when these are full.

        `profile` is that of `NamespaceHost`.
        """
        if shards is not None and not 1 <= shards <= _MOST:
            raise ValueError(f"shards must be from 1 to {_MOST}, not {shards}")
        self._first = shards or min(_FIRST, len(os.sched_getaffinity(0)))
        self._shards: list[Shard] = []
        self._launching = asyncio.Lock()
        self._sandboxes: set[ShardSandbox] = set()
        self._watching: asyncio.Task[None] | None = None
        self._cleaning: set[asyncio.Task[None]] = set()
        self._profile = profile
        self._machine = NamespaceHost(profile=profile)  # asked what this machine lacks, never for sandboxes
        self.kills = Pace(KILLS_PER_S)
        self._closed = False

    @property
    def lacks(self) -> frozenset[str]:
        """Needs of the conformance suite that this machine does not let us meet."""
        return self._machine.lacks

    def weaknesses(self) -> tuple[str, ...]:
        """Say which of the limits and walls do not hold on this machine. May block some 20 ms the first time."""
        return self._machine.weaknesses()

    async def start(self, spec: Spec) -> ShardSandbox:
        """Start a sandbox where there are fewest. Raises `StartFailed`, and `ValueError` for a senseless spec."""
        check_spec(spec)
        for _ in range(_TRIES):
            shard = await self._roomiest()
            shard.starting += 1
            try:
                born, _ = await shard.call("start", 0, spec, kind=Born, undo=lambda born, at=shard: _close(at, born))
                return ShardSandbox(born, shard, self)
            except ShardLost:
                continue
            finally:
                shard.starting -= 1
        raise StartFailed("the processes that hold sandboxes end one after another (why is on standard error)")

    async def roll_call(self) -> dict[str, int]:
        """Ask the first process of every sandbox how many commands run; return the answers, by id, of those that do."""
        shards = [shard.call("roll_call", kind=dict[str, int]) for shard in self._shards]
        said = await asyncio.gather(*shards, return_exceptions=True)
        return {name: count for each in said if isinstance(each, tuple) for name, count in each[0].items()}

    async def close(self) -> None:
        """Close every sandbox and end the shards. Idempotent."""
        self._closed = True
        if self._watching:
            self._watching.cancel()
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes)))
        async with self._launching:
            shards, self._shards = self._shards, []
        await asyncio.gather(*(shard.close() for shard in shards))
        await asyncio.gather(*self._cleaning)

    @property
    def shards(self) -> dict[int, int]:
        """How many sandboxes each shard has, by the pid of its process."""
        return {shard.pid: shard.load for shard in self._shards}

    def hold(self, sandbox: ShardSandbox) -> None:
        """Put a sandbox on the books."""
        self._sandboxes.add(sandbox)

    def forget(self, sandbox: ShardSandbox) -> None:
        """Take a sandbox that is gone off the books. Idempotent."""
        self._sandboxes.discard(sandbox)

    async def _roomiest(self) -> Shard:
        while not (found := [shard for shard in self._shards if shard.load < shard.capacity]):
            async with self._launching:
                if self._closed:
                    raise StartFailed("the sandbox host is closed")
                if any(shard.load < shard.capacity for shard in self._shards):
                    continue
                if len(self._shards) >= _MOST:
                    found = self._shards  # which wait for room, and say which limit it is
                    break
                await self._launch(1 if self._shards else self._first)
        if self._closed:
            raise StartFailed("the sandbox host is closed")
        return min(found, key=lambda shard: shard.load)

    async def _launch(self, count: int) -> None:
        launches = (Shard.launch(1 / self._first, self._profile, self._lost) for _ in range(count))
        done = await asyncio.gather(*launches, return_exceptions=True)
        self._shards += [shard for shard in done if isinstance(shard, Shard)]
        for error in done:
            if isinstance(error, BaseException):
                raise error
        self._watching = self._watching or asyncio.ensure_future(self._watch())

    def _lost(self, shard: Shard) -> None:
        """A shard has died: its sandboxes end with it, and what may be left of them is looked for."""
        if shard in self._shards:
            self._shards.remove(shard)
        cleaning = asyncio.ensure_future(shard.close())
        self._cleaning.add(cleaning)
        cleaning.add_done_callback(self._cleaning.discard)

    async def _watch(self) -> None:
        """End a shard that has not answered for long: whoever waits for it is better off without."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await asyncio.gather(*(_answers(shard) for shard in list(self._shards)))


async def _answers(shard: Shard) -> None:
    try:
        async with asyncio.timeout(_DEAF_S):
            await shard.call("hello")
    except TimeoutError:
        shard.kill()
    except SandboxLost:
        pass


async def _close(shard: Shard, born: Born) -> None:
    await shard.call("close", born.number)

"""The default host: Linux namespaces, started by a small C fork server, commanded through a C pid 1.

A sandbox is one tmpfs root with the machine's own system bound read only, its own uid, no capability, no network but
loopback, and a cgroup. It ends with its owner, its time to live or its control socket, whichever comes first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from palmette.sandbox import cgroup, landlock
from palmette.sandbox.admission import Admission
from palmette.sandbox.api import SandboxError, Spec, StartFailed
from palmette.sandbox.door import Door, open_door
from palmette.sandbox.layers import Stack
from palmette.sandbox.layout import check_spec
from palmette.sandbox.ledger import HEARTBEAT_S
from palmette.sandbox.namespace_sandbox import NamespaceSandbox
from palmette.sandbox.pace import KILLS_PER_S, Pace
from palmette.sandbox.profile import Profile
from palmette.sandbox.reach import Roots
from palmette.sandbox.reap import reap
from palmette.sandbox.server import Machine, Server, survey

_STARTING = 16  # at once; more only queue up in the kernel and time out together
CAPACITY = 8000  # sandboxes; a fork server has some 8,000 uids
_PROFILE_LACKS: dict[Profile, set[str]] = {
    Profile.ROOT: set(),
    Profile.ROOT_INSIDE: {"root", "user", "system"},
    Profile.ROOTLESS: {"pids", "root"},
}
_PROFILE_WEAKNESSES: dict[Profile, tuple[str, ...]] = {
    Profile.ROOT: (),
    Profile.ROOT_INSIDE: (
        "root-inside: commands are root of a user namespace that all sandboxes of this host share, with nine "
        "capabilities over their own files and processes",
        "root-inside: a sandbox may change its own /etc and other files of its private root",
    ),
    Profile.ROOTLESS: (
        "rootless: all sandboxes of this host share one uid, so there is no limit on processes per sandbox",
        "rootless: a sandbox may change modes and times of all files in its private root",
    ),
}


class NamespaceHost:
    """Starts sandboxes through one fork server of its own, which is launched at the first start.

    All stand behind the walls of one `profile`; None is the strongest that this user can have.
    """

    def __init__(
        self,
        admission: Admission | None = None,
        profile: Profile | None = None,
        on_end: Callable[[NamespaceSandbox, str], None] | None = None,
    ) -> None:
        """Begin; `on_end(sandbox, why)` is called once for each sandbox that ends, however it does."""
        self.name = f"namespace:{profile}" if profile else "namespace"
        self._wanted = profile
        self._admission = admission or Admission()
        self._on_end = on_end
        self._machine: Machine | None = None
        self._server: Server | None = None
        self._launching = asyncio.Lock()
        self._starting = asyncio.Semaphore(_STARTING)
        self.roots = Roots()
        self._sandboxes: dict[str, NamespaceSandbox] = {}
        self._serial = 0
        self.kills = Pace(KILLS_PER_S)
        self._door: Door | None = None
        self._closed = False

    async def start(self, spec: Spec) -> NamespaceSandbox:
        """Start a sandbox. Raises `StartFailed`, and `ValueError` for a spec that makes no sense."""
        check_spec(spec)
        if self._closed:
            raise StartFailed("the sandbox host is closed")
        async with self._starting:
            return await self._start(await self._launched(), spec)

    async def start_copy(self, spec: Spec, lowers: tuple[str, ...], uid: int) -> NamespaceSandbox:
        """Start a sandbox from frozen layers of this host that belong to `uid`. Raises `StartFailed`."""
        if self._closed:
            raise StartFailed("the sandbox host is closed")
        async with self._starting:
            server = await self._launched()
            return await self._start(server, spec, lowers, uid)

    def forget(self, name: str, why: str) -> None:
        """Take a sandbox that is gone off the books. Idempotent."""
        sandbox = self._sandboxes.pop(name, None)
        if sandbox and self._on_end:
            self._on_end(sandbox, why)

    async def room_for_commands(self, name: str) -> None:
        """Wait while there is no memory for a sandbox to begin to run commands. Raises `SandboxError` in the end."""
        try:
            async with self._admission.room(0):
                return
        except StartFailed as error:
            raise SandboxError(f"sandbox {name} cannot run its first command: {error}") from None

    @property
    def lacks(self) -> frozenset[str]:
        """Needs of the conformance suite that this machine and profile do not let us meet. Raises `StartFailed`."""
        machine = self._survey()
        missing = set() if machine.cgroups.version else {"memory"}
        missing |= set() if machine.cgroups.freezes else {"pause"}
        missing |= set() if machine.cgroups.shares_cpu else {"cpu"}
        missing |= _PROFILE_LACKS[machine.profile]
        if machine.profile is Profile.ROOTLESS and machine.landlock < landlock.WRITES:
            missing |= {"system"}
        return frozenset(missing if machine.filtered else missing | {"filter"})

    def weaknesses(self) -> tuple[str, ...]:
        """Say which of the limits and walls do not hold on this machine. May block some 20 ms the first time.

        Raises `StartFailed` if its profile cannot be had.
        """
        found = []
        machine = self._survey()
        if not machine.cgroups.version:
            found.append(
                f"no cgroup limits ({machine.cgroups.reason}): memory is limited per process and not per sandbox, "
                "so an out-of-memory end looks like any other failure"
            )
        if not machine.cgroups.shares_cpu:
            found.append("no cpu controller: a sandbox with many busy processes slows the next one")
        if not machine.cgroups.freezes:
            found.append("no freezer: a sandbox cannot be paused")
        found += _PROFILE_WEAKNESSES[machine.profile]
        if machine.profile is Profile.ROOTLESS and machine.landlock < landlock.WRITES:
            found.append(
                f"rootless: a sandbox may change its own /etc and other files of its private root (Landlock's ABI is "
                f"{machine.landlock}, {landlock.WRITES} is needed: Linux 5.19 with Landlock among its LSMs)"
            )
        if not machine.filtered:
            found.append(
                "no seccomp filter (this kernel's BPF allocator is stuck): nested user namespaces are possible"
            )
        return tuple(found)

    async def roll_call(self) -> dict[str, int]:
        """Ask the first process of every sandbox how many commands run; return the answers, by id, of those that do."""
        asked = list(self._sandboxes.values())
        said = await asyncio.gather(*(sandbox.running() for sandbox in asked), return_exceptions=True)
        return {box.id: count for box, count in zip(asked, said, strict=True) if isinstance(count, int)}

    async def close(self) -> None:
        """Close every sandbox, end the fork server and remove its cgroups. Idempotent."""
        self._closed = True
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes.values())))
        async with self._launching:
            server, self._server = self._server, None
        if self._door:
            self._door.close()
        if server is not None:
            await asyncio.shield(asyncio.to_thread(server.close))

    async def _start(
        self, server: Server, spec: Spec, lowers: tuple[str, ...] = (), uid: int | None = None
    ) -> NamespaceSandbox:
        async with self._admission.room(
            descriptors(spec, server.profile), lambda: server.full if uid is None else None
        ):
            if self._closed:
                raise StartFailed("the sandbox host is closed")
            self._serial += 1
            name = f"{server.name}/{self._serial}"
            stack = Stack(top=server.layers.fresh() if lowers or spec.root else 0, lowers=lowers)
            uid = server.take_uid() if uid is None else server.hold_uid(uid)
            sandbox = self._sandboxes[name] = NamespaceSandbox(name, spec, self, server, stack, uid)
            try:
                await sandbox.start()
            except BaseException:
                await asyncio.shield(sandbox.close())
                raise
            return sandbox

    async def _launched(self) -> Server:
        async with self._launching:
            server = self._server
            if server is None:
                server = self._server = await asyncio.to_thread(self._launch)
                self._door = open_door(server.ledger.path, self._sandboxes)
                self._beat()
            elif server.process.poll() is not None:
                raise StartFailed("the fork server died; open a new sandbox host")
            return server

    def _beat(self) -> None:
        if self._server is not None:
            self._server.ledger.beat()
            asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat)

    def _launch(self) -> Server:
        machine = self._survey()
        reap()
        cgroup.remove_stale(machine.cgroups)
        return Server(machine)

    def _survey(self) -> Machine:
        if self._machine is None:
            self._machine = survey(self._wanted)
        return self._machine


def descriptors(spec: Spec, profile: Profile) -> int:
    """Return how many a sandbox takes here: both ends of its socket while it starts; listener; what is kept rootless.

    Its root is closed when many others are used.
    """
    return 2 + (spec.gateway is not None) + bool(spec.network) + 2 * (profile is Profile.ROOTLESS)

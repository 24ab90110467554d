"""The fork server's process as the host sees it: launching it, asking it for sandboxes, ending it."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from palmette.sandbox import cgroup, landlock, seccomp
from palmette.sandbox.api import Spec, StartFailed
from palmette.sandbox.build import fork_server
from palmette.sandbox.descriptors import readable
from palmette.sandbox.layers import Layers
from palmette.sandbox.layout import DIRECTORIES, shown
from palmette.sandbox.ledger import Ledger
from palmette.sandbox.profile import Profile, settle

START_TIMEOUT_S = 30.0
NO_CPU = "no cpu controller of cgroups can be used here; leave it None, or delegate one (and be root)"
_START, _ROTATE, _DROP, _SOCKET = 1, 2, 3, 4
_REQUEST = struct.Struct("=15I")
_ROTATION = struct.Struct("=9I")
_ROOTLESS_UID = 1000
_UIDS, _UID_BASE, _UID_BLOCKS = 8192, 200_000, 200  # below 2,097,152, the largest uid a plain tar header holds
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("alternatives", "fonts", "ld.so.cache", "mime.types", "perl", "services", "terminfo")
_HINTS = {
    "making a user namespace": "run as root, or allow unprivileged user namespaces",
    "making a mount namespace": "run as root with CAP_SYS_ADMIN",
    "making an idmapped mount": "the profile root-inside needs Linux 5.12 and a file system whose mounts can be "
    "idmapped (ext4, xfs, btrfs, from 6.3 tmpfs; no overlayfs): keep the image elsewhere, use 'namespace:root'",
    "mounting proc": "in a container, start it with an unmasked /proc (e.g. --security-opt systempaths=unconfined)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this machine and user allow."""

    profile: Profile
    cgroups: cgroup.Cgroups
    filtered: bool
    landlock: int  # version of its ABI


def survey(wanted: Profile | None = None) -> Machine:
    """Find out; `wanted` None is the strongest profile. Blocks some 20 ms. Raises `StartFailed` if it cannot be had."""
    profile = settle(wanted)
    rootless = cgroup.Cgroups(version=0, reason="rootless")
    groups = rootless if profile is Profile.ROOTLESS else cgroup.detect()
    return Machine(profile=profile, cgroups=groups, filtered=seccomp.usable(), landlock=landlock.abi())


class Server:
    """The running fork server. Making it blocks (it may compile) and raises `StartFailed`."""

    def __init__(self, machine: Machine) -> None:
        program = str(fork_server())
        self.profile, self.cgroups = machine.profile, machine.cgroups
        self.name = cgroup.own_name()
        self._system = _system()
        self._system_paths = tuple(key.partition("\n")[0] for key in self._system[1])
        self._system_strings = _strings(*self._system[0], *self._system[1])
        self._claim, self._uids = _claim_uids()
        self._holders: dict[int, int] = {}
        first = self._uids[0] if os.geteuid() == 0 else 0
        self.user = "root" if self.profile is Profile.ROOT_INSIDE else "agent"  # its name inside
        self._shared_uid = None if self.profile is Profile.ROOT else first  # outside; inside it has another number
        self.layers = Layers(self.drop)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        directories = [str(directory) for directory in machine.cgroups.directories]
        number = list(Profile).index(machine.profile)  # enum profile of native/wire.h
        flags = [str(n) for n in (number, first, int(machine.filtered), machine.cgroups.version)]
        command = [program, str(theirs.fileno()), *flags, self.name, *directories]
        with theirs:
            self.process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        version = machine.cgroups.version
        self.ledger = Ledger(self.name, server=self.process.pid, version=version, directories=tuple(directories))
        self._socket = ours
        ours.settimeout(START_TIMEOUT_S)
        try:
            answer = ours.recv(1024)
        except OSError as error:
            answer = b"\0" * 8 + str(error).encode()
        if answer[:4] != struct.pack("=I", 1):
            self.close()
            code = struct.unpack_from("=i", answer, 4)[0] if len(answer) > 8 else 0
            text = answer[8:].decode(errors="replace") or "it died at once"
            raise explained(f"{text}: {os.strerror(code)}" if code else text)
        ours.setblocking(False)

    def request(self, name: str, spec: Spec, uid: int, layer: int = 0, lowers: Sequence[str] = ()) -> bytes:
        """Return the packet that asks for a sandbox (native/wire.h). Raises `StartFailed`."""
        links, system = self._system if not spec.root else ([], [_image_key(spec.root)])
        binds = [_bind_key(path) for path in shown(spec)]
        directories = list(dict.fromkeys((spec.workdir, *DIRECTORIES)))
        limits = spec.limits
        ttl_ms = min(int(spec.ttl_s * 1000), 0xFFFFFFFF)
        cpu_percent = round((limits.cpus or 0) * 100)
        counts = len(links) // 2, len(system) + len(binds), len(directories), layer, len(lowers)
        numbers = limits.memory_mb, limits.pids, limits.disk_mb, limits.inodes, limits.output_bytes, ttl_ms
        head = _REQUEST.pack(_START, uid, *numbers, spec.gateway is not None, *counts, cpu_percent)
        if limits.cpus and not self.cgroups.shares_cpu:
            raise StartFailed(f"Limits.cpus: {NO_CPU}")
        host = _strings(*links, *system) if spec.root else self._system_strings
        return head + _strings(name) + host + _strings(*binds, *directories, *lowers)

    def rotation(
        self, spec: Spec, *, layer: int, kept: int = 0, flat: bool = False, lowers: Sequence[str] = ()
    ) -> bytes:
        """Return the packet that asks for a new writable layer in a living sandbox (native/wire.h)."""
        image = [_image_key(spec.root)] if spec.root else []
        points = _outermost(tuple(shown(spec)) if image else (*self._system_paths, *shown(spec)))
        counts = len(lowers), len(image), len(points)
        limits = spec.limits
        head = _ROTATION.pack(_ROTATE, layer, kept, flat, limits.disk_mb, limits.inodes, *counts)
        return head + _strings(*lowers, *image, *points)

    @property
    def full(self) -> str | None:
        """Why no other sandbox has room here, or None."""
        return (
            None
            if self._shared_uid is not None or self._uids
            else f"{_UIDS} sandboxes are live in this host, which is its limit"
        )

    def take_uid(self) -> int:
        """Return a uid no living sandbox has (but in profile `root`: the only one there is), held once."""
        if self._shared_uid is not None:
            return _ROOTLESS_UID
        if full := self.full:
            raise StartFailed(full)
        uid = self._uids.popleft()
        self._holders[uid] = 1
        return uid

    def hold_uid(self, uid: int) -> int:
        """Hold the uid once more: forks share that of the files they share."""
        if self._shared_uid is None:
            self._holders[uid] += 1
        return uid

    @property
    def actor(self) -> int:
        """The uid that files are reached as, -1 for this process's own: a user namespace's mounts know no other."""
        return (self._shared_uid or -1) if self.profile is Profile.ROOTLESS else -1

    def outside(self, uid: int) -> int | None:
        """Return what the machine calls the uid of a sandbox, None if it is this user's own."""
        return uid if self._shared_uid is None else self._shared_uid or None

    def return_uid(self, uid: int) -> None:
        """Let go of a uid; after the last time it is used again as late as possible."""
        if uid and self._shared_uid is None:
            self._holders[uid] -= 1
            if not self._holders[uid]:
                del self._holders[uid]
                self._uids.append(uid)

    async def rotate(self, request: bytes, target: int) -> int:
        """Carry out a `rotation` of the sandbox with the pidfd (or mount namespace) `target`; return its new root.

        Raises `StartFailed`.
        """
        return await self._descriptor(request, target)

    async def socket(self, name: str, family: int) -> socket.socket:
        """Return a TCP socket made in the network of the sandbox `name`. Raises `StartFailed`."""
        return socket.socket(fileno=await self._descriptor(struct.pack("=2I", _SOCKET, family) + _strings(name)))

    def drop(self, layer: str) -> None:
        """Let go of a layer that nothing needs any more."""
        with suppress(OSError):  # the server is gone, and all layers with it
            self._socket.send(struct.pack("=I", _DROP) + _strings(layer))

    async def ask(self, request: bytes, control: socket.socket, *more: int) -> None:
        """Send a request with the other end of the socket that is to be answered on, and `more` descriptors."""
        while True:
            try:
                socket.send_fds(self._socket, [request], [control.fileno(), *more])
                return
            except BlockingIOError:
                await asyncio.sleep(0.001)
            except OSError as error:
                raise StartFailed(f"the fork server is gone ({error.strerror})") from None

    def close(self) -> None:
        """End the server and wait for it. Blocks until its cgroups are removed."""
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        cgroup.remove(self.cgroups, self.name)  # it does so itself unless it was killed
        self._claim.close()
        self.ledger.close()

    async def _descriptor(self, request: bytes, *more: int) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                await self.ask(request, theirs, *more)
            ours.setblocking(False)
            if not await readable(ours.fileno(), timeout_s=START_TIMEOUT_S):
                raise StartFailed(f"no answer from the fork server within {START_TIMEOUT_S:.0f} s")
            packet, fds, _, _ = socket.recv_fds(ours, 1024, 1)
        if fds:
            return fds[0]
        text = packet[8:].decode(errors="replace") or "the fork server's helper died"
        code = struct.unpack_from("=i", packet, 4)[0] if len(packet) >= 8 else 0
        raise explained(f"{text}: {os.strerror(code)}" if code else text)


@lru_cache(maxsize=256)
def _outermost(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(path for path in paths if not any(path.startswith(f"{other}/") for other in paths))


def _strings(*words: str) -> bytes:
    return os.fsencode("\0".join((*words, ""))) if words else b""


def _system() -> tuple[list[str], list[str]]:
    """Return the links (target, path, ...) and binds that show the machine's own system in a sandbox."""
    links, binds = [], []
    for path in _SYSTEM:
        if os.path.islink(path):
            links += [os.readlink(path), path]
        elif os.path.isdir(path):
            binds.append(_bind_key(path))
    return links, binds + [_bind_key(path) for name in _ETC if os.path.exists(path := f"/etc/{name}")]


def _image_key(root: str) -> str:
    if os.path.exists(root) and not os.path.isdir(root):
        raise StartFailed(f"Spec.root: {root}: Not a directory")
    return _bind_key(root, "Spec.root") + "\n/"


def _bind_key(path: str, named: str = "Spec.readonly") -> str:
    try:
        info = os.stat(path)
    except OSError as error:
        raise StartFailed(f"{named}: {path}: {error.strerror}") from None
    return f"{path}\n{info.st_dev}:{info.st_ino}"


def _claim_uids() -> tuple[socket.socket, deque[int]]:
    """Return a block of uids no other host on this machine uses, and the socket whose name is the claim.

    A name in the abstract space vanishes with its owner, however that ends.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for block in range(_UID_BLOCKS):
        try:
            claim.bind(f"\0palmette-uids-{block}")
        except OSError:
            continue
        first = _UID_BASE + block * _UIDS
        return claim, deque(range(first, first + _UIDS))
    claim.close()
    raise StartFailed(f"{_UID_BLOCKS} sandbox hosts are open on this machine, which is its limit")


def explained(text: str) -> StartFailed:
    """Return the error for what the fork server said, with the hint that belongs to the stage it failed in."""
    hint = next((hint for stage, hint in _HINTS.items() if text.startswith(stage)), "")
    return StartFailed(f"{text}; {hint}, or use the sandbox host 'fake' for trusted code" if hint else text)

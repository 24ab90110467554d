"""The way from the host to servers in a sandbox: sockets born in its network, which only the host has."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Awaitable, Callable

from palmette.sandbox import enter_box, proxy
from palmette.sandbox.allow_list import AllowList
from palmette.sandbox.api import Spec, StartFailed
from palmette.sandbox.descriptors import readable
from palmette.sandbox.relay import Handler, Relay, to_address, to_socket
from palmette.sandbox.traffic import record

NewSocket = Callable[[int], Awaitable[socket.socket]]
_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_TIMEOUT_S = 30.0


class Ways:
    """All connections between one sandbox and its host; `new_socket(family)` makes a TCP socket in its network.

    `check` raises when the sandbox is gone.
    """

    def __init__(self, name: str, new_socket: NewSocket, check: Callable[[], object]) -> None:
        self._name = name
        self._new_socket = new_socket
        self._check = check
        self._open: set[Relay] = set()
        self._proxy: proxy.Proxy | None = None

    async def socket(self, family: int) -> socket.socket:
        """Return a socket of the sandbox's network, for the host to connect or to listen with."""
        self._check()
        return await self._new_socket(family)

    async def connect(self, port: int) -> socket.socket:
        """Return a socket that is connected to a server on the sandbox's loopback (see `Ports.connect`)."""
        self._check()
        _check_port(port)
        for family, address in _LOOPBACK:
            inner = await self.socket(family)
            try:
                inner.setblocking(False)
                await asyncio.wait_for(asyncio.get_running_loop().sock_connect(inner, (address, port)), _TIMEOUT_S)
                return inner
            except OSError:  # many a server listens on one of the two only
                inner.close()
            except BaseException:
                inner.close()
                raise
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"nothing in sandbox {self._name} listens on port {port}")

    def expose(self, port: int) -> Exposure:
        """Return a port of this machine's loopback that leads to `port` in the sandbox."""
        self._check()
        _check_port(port)
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return Exposure(url, self.relay(listener, to_socket(lambda: self.connect(port))), self._open)

    async def offer(self, address: tuple[str, int], connect: Callable[[], Awaitable[socket.socket]]) -> Exposure:
        """Return an address of the sandbox's loopback that leads to what `connect` returns a socket to."""
        self._check()
        relay = self.relay(await self.listen(address), to_socket(connect))
        return Exposure(f"http://{address[0]}:{address[1]}", relay, self._open)

    async def listen(self, address: tuple[str, int]) -> socket.socket:
        """Return a socket that listens on `address` in the sandbox."""
        inner = await self._new_socket(socket.AF_INET)
        try:
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            inner.bind(address)
            inner.listen(128)
        except BaseException:
            inner.close()
            raise
        return inner

    async def serve(self, spec: Spec, listener: socket.socket | None = None) -> None:
        """Offer what `spec` says: the gateway, on a `listener` if there is one already, and a proxy."""
        if spec.gateway:
            self.relay(listener or await self.listen(enter_box.GATEWAY), to_address(spec.gateway))
        if spec.network:
            self.allow(spec, await self.listen(proxy.ADDRESS))

    def allow(self, spec: Spec, listener: socket.socket) -> None:
        """Let what connects to `listener` reach the hosts of `Spec.network`."""
        self._proxy = proxy.Proxy(
            AllowList(spec.network),
            limit_bytes=spec.limits.network_mb << 20,
            log=lambda request: record(self._name, spec.owner, request),
        )
        self.relay(listener, self._proxy.serve)

    @property
    def passed_mb(self) -> float:
        """What has gone through the proxy, both ways."""
        return self._proxy.passed_bytes / 2**20 if self._proxy else 0.0

    def relay(self, listener: socket.socket, handler: Handler) -> Relay:
        """Give what connects to `listener` to `handler`, until `close`."""
        relay = Relay(listener, handler)
        self._open.add(relay)
        return relay

    def close(self) -> None:
        """Stop listening everywhere, and cut every connection. Idempotent."""
        while self._open:
            self._open.pop().close()


class Exposure:
    """A listening port that leads into a sandbox, or out of it; made by `Ways.expose` and `Ways.offer`."""

    def __init__(self, url: str, relay: Relay, siblings: set[Relay]) -> None:
        self._url = url
        self._relay = relay
        self._siblings = siblings

    @property
    def url(self) -> str:
        """Where it answers, on this machine only."""
        return self._url

    async def close(self) -> None:
        """Stop listening and cut every connection. Idempotent."""
        self._siblings.discard(self._relay)
        self._relay.close()


class Reachable:
    """The part of a sandbox that is the protocol `Ports`: what has `_ways` only inherits it."""

    _ways: Ways

    async def socket(self, family: int) -> socket.socket:
        """Return a TCP socket that was made in its network. Raises `SandboxLost`, `StartFailed`."""
        return await self._ways.socket(family)

    async def connect(self, port: int) -> socket.socket:
        """Return a socket connected to a server in it. Raises `ConnectionRefusedError`, `SandboxLost`, `ValueError`."""
        return await self._ways.connect(port)

    async def expose(self, port: int) -> Exposure:
        """Give a server in it an address on this machine. Raises `SandboxLost`, `ValueError`."""
        return self._ways.expose(port)

    async def offer(self, address: tuple[str, int], connect: Callable[[], Awaitable[socket.socket]]) -> Exposure:
        """Let its processes reach at `address` what `connect` leads to. Raises `SandboxLost`, `OSError`."""
        return await self._ways.offer(address, connect)


class Helper:
    """A process in the network of the sandbox whose first process is `pid`, which makes sockets there.

    For hosts without a fork server. Raises `StartFailed` when it cannot get there.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._asking = asyncio.Lock()

    async def socket(self, family: int) -> socket.socket:
        """Return a TCP socket that was made there; it starts with the first one. Raises `StartFailed`."""
        async with self._asking:
            control = self._control or await self._start()
            try:
                control.send(bytes([family]))
                if not await readable(control.fileno(), timeout_s=_TIMEOUT_S):
                    raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                said, fds, _, _ = socket.recv_fds(control, 1024, 1)
            except OSError as error:
                said, fds = (error.strerror or "").encode(), []
            if fds:
                return socket.socket(fileno=fds[0])
            self._forget()
            raise StartFailed(f"no socket in the sandbox's network: {said.decode(errors='replace') or 'no answer'}")

    async def close(self) -> None:
        """End the process. Idempotent."""
        if self._process and self._process.returncode is None:
            self._process.kill()  # whoever waits for a socket hears of it
            await self._process.wait()
        async with self._asking:
            self._forget()

    def _forget(self) -> None:
        if self._control:
            self._control.close()  # at which the process ends, if it has not
            self._control = None

    async def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-I", "-S", enter_box.__file__, "sockets", str(self._pid), str(theirs.fileno())]
            self._process = await asyncio.create_subprocess_exec(
                *command, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL
            )
        ours.setblocking(False)
        self._control = ours
        return ours


def _check_port(port: int) -> None:
    if not 0 < port < 65536:
        raise ValueError(f"a port is between 1 and 65535, not {port}")

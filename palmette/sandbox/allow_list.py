"""Which hosts a sandbox may reach: names and ports from its `Spec.network`, addresses as the host resolves them.

An entry is ``[*.]NAME[@NETWORK][:PORT]``. Without a port it stands for 80 and 443; ``*.NAME`` is every name below
NAME, ``*`` every name. A name must resolve to a public address each time, unless NETWORK says where it
may lead: ``mirror.corp@10.0.0.0/8``. An address as NAME (IPv6 in brackets) speaks for itself.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Resolve = Callable[[str], Awaitable[Sequence[str]]]
_PORTS = (80, 443)
_ENTRY = re.compile(
    r"(?P<name>\*|(?:\*\.)?[a-z0-9_][a-z0-9._-]*|\[[0-9a-f:.]+\])(?:@(?P<net>[^@\[\]]+?|\[[^\]]+\]))?(?::(?P<port>\d+))?"
)
_NAME = re.compile(r"[a-z0-9_:][a-z0-9._:-]*")
_TRANSLATED = ip_network("64:ff9b::/96")  # an IPv4 address for a network that has only IPv6 (RFC 6052)
_RESOLVE_S = 10.0


class Refused(Exception):
    """A request that is not let through, with the HTTP `status` it is answered with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the list."""

    name: str  # "*", "*.below", or a whole name, in small letters
    ports: tuple[int, ...]
    network: IPv4Network | IPv6Network | None  # None is any public address


class AllowList:
    """The list of one sandbox. Raises `ValueError` for an entry that is none."""

    def __init__(self, entries: Sequence[str], resolve: Resolve | None = None) -> None:
        self._entries = [parse(entry) for entry in entries]
        self._resolve = resolve or _resolve

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Return where `host` may be reached, the one way it was resolved. Raises `Refused`."""
        host = host.lower().rstrip(".")
        if not _NAME.fullmatch(host):
            raise Refused(400, f"{host[:80]!r} is no name of a host")
        entries = [entry for entry in self._entries if port in entry.ports and _matches(entry.name, host)]
        if not entries:
            add = f"{host if ':' not in host else f'[{host}]'}{'' if port in _PORTS else f':{port}'}"
            raise Refused(403, f'{host} port {port} is not on the list of this sandbox: add "{add}" to Spec.network')
        try:
            found = [_plain(ip_address(text)) for text in await asyncio.wait_for(self._resolve(host), _RESOLVE_S)]
        except (OSError, ValueError) as error:
            raise Refused(502, f"{host} does not resolve ({error})") from None
        good = [each for each in found if any(_leads(entry, each) for entry in entries)]
        if not good:
            where = f"{host} leads to {found[0]}, which is not public" if found else f"{host} does not resolve"
            raise Refused(
                403, f'{where}: if it is meant to, write "{host}@{found[0]}" in Spec.network' if found else where
            )
        return good


def parse(entry: str) -> Entry:
    """Return what an entry says. Raises `ValueError` with what is wrong."""
    match = _ENTRY.fullmatch(entry.lower())
    wrong = f"Spec.network: {entry!r} is no [*.]NAME[@NETWORK][:PORT]"
    if not match:
        raise ValueError(wrong)
    name, port = match["name"].strip("[]").rstrip("."), int(match["port"] or 0)
    if match["port"] and not 0 < port < 65536:
        raise ValueError(f"{wrong}: a port is between 1 and 65535")
    try:
        network = ip_network(match["net"].strip("[]")) if match["net"] else _own_network(name)
    except ValueError as error:
        raise ValueError(f"{wrong}: {error}") from None
    return Entry(name=name, ports=(port,) if port else _PORTS, network=network)


def public(address: Address) -> bool:
    """Whether an address is one of the internet, and not one of this very machine."""
    return address.is_global and not address.is_multicast and not _is_own(address)


def _own_network(name: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(ip_address(name))
    except ValueError:
        return None


def _matches(name: str, host: str) -> bool:
    if name.startswith("*"):
        return host.endswith(name[1:]) and host != name[1:]
    return host == name


def _leads(entry: Entry, address: Address) -> bool:
    return address in entry.network if entry.network else public(address)


def _plain(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one only wraps."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _TRANSLATED:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


def _is_own(address: Address) -> bool:
    """Whether this machine has the address: from there it would talk to itself."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))  # sends nothing
        except OSError:
            return False
        return probe.getsockname()[0] == str(address)


async def _resolve(host: str) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in found))

"""What every sandbox looks like inside, whatever host it runs on."""

from __future__ import annotations

import os
from collections.abc import Sequence

from palmette.sandbox.allow_list import parse
from palmette.sandbox.api import Spec
from palmette.sandbox.proxy import ADDRESS, variables

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DIRECTORIES = ("/tmp", "/var/tmp", "/tests", "/logs", "/logs/verifier", "/solution")  # writable, beside the workdir


_CERTIFICATES = "/etc/ssl/certs"
_MOST = 2**31 - 1  # of any limit: what a packet to the fork server holds


def check_spec(spec: Spec) -> None:
    """Raise `ValueError` for a spec that makes no sense on any host."""
    limits = spec.limits
    for name in ("memory_mb", "pids", "disk_mb", "inodes", "network_mb", "output_bytes"):
        if not 0 < getattr(limits, name) <= _MOST:
            asked = "positive" if getattr(limits, name) <= 0 else f"at most {_MOST}"
            raise ValueError(f"Limits.{name} must be {asked}, not {getattr(limits, name)}")
    if limits.cpus is not None and not 0.01 <= limits.cpus <= 10_000:
        raise ValueError(f"Limits.cpus must be 0.01 or more, not {limits.cpus}")
    if spec.ttl_s <= 0:
        raise ValueError(f"Spec.ttl_s must be positive, not {spec.ttl_s}")
    if isinstance(spec.network, str):
        raise ValueError(f"Spec.network is a tuple of entries: ({spec.network!r},)")
    for each in spec.network:
        parse(each)
    if spec.gateway and not 0 < spec.gateway[1] < 65536:
        raise ValueError(f"Spec.gateway: a port is between 1 and 65535, not {spec.gateway[1]}")
    for name, value in spec.env.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"Spec.env: {name!r} and its value cannot be a variable")
    roots = filter(None, (spec.root,))
    paths = [("workdir", spec.workdir), *(("readonly", path) for path in spec.readonly), *(("root", r) for r in roots)]
    for name, path in paths:
        if not path.startswith("/") or os.path.normpath(path) != path or path == "/" or "\0" in path:
            raise ValueError(f"Spec.{name}: {path!r} must be an absolute, normalised path below /")


def shown(spec: Spec) -> tuple[str, ...]:
    """Return the host's directories that are to be seen: with a network, those who speak for its servers are needed."""
    certificates = _CERTIFICATES if spec.network and not spec.root and os.path.isdir(_CERTIFICATES) else ""
    return tuple(dict.fromkeys((*spec.readonly, *filter(None, (certificates,)))))


def environment(spec: Spec, *, user: str = "agent", proxy: tuple[str, int] = ADDRESS) -> dict[str, str]:
    """Return the variables of every command: ours, those that lead to the proxy if there is one, those of the spec."""
    fixed = {"PATH": PATH, "HOME": spec.workdir, "USER": user, "LANG": "C.UTF-8"}
    return {**fixed, **(variables(proxy) if spec.network else {}), **spec.env}


def argv_of(command: str | Sequence[str]) -> tuple[str, ...]:
    """Return what to run: a string goes through a shell. Raises `ValueError` for nothing."""
    argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
    if not argv:
        raise ValueError("an empty command")
    return argv

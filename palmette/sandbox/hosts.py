"""Hosts of sandboxes by name, and what this machine offers them."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from palmette.errors import UserError, suggest
from palmette.sandbox import cgroup, seccomp
from palmette.sandbox.api import Host, SandboxError, Spec
from palmette.sandbox.build import buildable, compiler
from palmette.sandbox.features import cgroup_row, feature_rows, idmapped_row

_LOG = logging.getLogger("palmette.sandbox")


def open_host(name: str) -> Host:
    """Return the host called `name`, a key of `HOSTS`. Raises `UserError` for an unknown name.

    Plain ``namespace`` is bubblewrap where no C can be compiled, and a warning says what is weaker.
    """
    if name not in HOSTS:
        known = ", ".join(sorted(HOSTS))
        raise UserError(f"unknown sandbox host '{name}'{suggest(name, HOSTS)} (known: {known})")
    return HOSTS[name]()


def probe() -> list[tuple[str, bool, str]]:
    """Return (what, whether it works, detail) for all that the namespace host leans on; starts one sandbox. Blocks."""
    cc = compiler()
    stuck = seccomp.stuck_workers()  # looked at before anything is tried: see seccomp.py
    groups = cgroup.detect()
    overlay = "overlay" in Path("/proc/filesystems").read_text().split()
    uid = os.geteuid()
    rows = [
        ("C compiler", cc is not None, cc or "missing: install gcc"),
        ("user", uid == 0, "root" if uid == 0 else f"uid {uid}: rootless sandboxes, without cgroup limits"),
        ("seccomp", seccomp.usable(), f"{stuck} kernel workers stuck" if stuck else "filter available"),
        cgroup_row(groups),
        ("overlayfs", overlay, "in /proc/filesystems" if overlay else "not in /proc/filesystems"),
        *feature_rows(),
    ]
    with ThreadPoolExecutor(1) as thread:  # the caller may have an event loop of its own
        return [*rows, *thread.submit(lambda: asyncio.run(_try_namespace())).result()]


def probe_others() -> list[tuple[str, bool, str]]:
    """Return (host, whether it starts a sandbox here, what it can and cannot do) for every host but ``namespace``.

    Blocks. A sandbox of a paid service is started only where its key is set.
    """
    with ThreadPoolExecutor(1) as thread:
        return [thread.submit(lambda n=name: asyncio.run(_try(n))).result() for name in HOSTS if name != "namespace"]


async def _try(name: str) -> tuple[str, bool, str]:
    host = open_host(name)
    try:
        sandbox = await host.start(Spec(owner="doctor"))
        said = (await sandbox.exec("echo works")).stdout
        return name, said == b"works\n", "; ".join(host.weaknesses())
    except SandboxError as error:
        return name, False, str(error)
    finally:
        await host.close()


async def _try_namespace() -> list[tuple[str, bool, str]]:
    inside = open_host("namespace:root-inside")
    try:
        return [await idmapped_row(inside), await _time_namespace()]
    finally:
        await inside.close()


async def _time_namespace() -> tuple[str, bool, str]:
    host = open_host("namespace")
    try:
        await (await host.start(Spec(owner="doctor"))).close()  # compiles and launches
        began = time.monotonic()
        sandbox = await host.start(Spec(owner="doctor"))
        took_ms = (time.monotonic() - began) * 1e3
        result = await sandbox.exec("echo works")
        weak = "; ".join(host.weaknesses())
        works = result.stdout == b"works\n"
        return "namespace sandbox", works, f"starts in {took_ms:.1f} ms" + (f"; weaker here: {weak}" if weak else "")
    except SandboxError as error:
        return "namespace sandbox", False, str(error)
    finally:
        await host.close()


def _default() -> Host:
    if buildable() or shutil.which("bwrap") is None:  # without either, its first start says what to install
        return _namespace()
    host = _bubblewrap()
    _LOG.warning(
        "no C compiler for the namespace sandbox, so bubblewrap takes its place: it cannot fork, and %s; install gcc",
        "; ".join(host.weaknesses()),
    )
    return host


def _namespace(profile: str = "") -> Host:
    from palmette.sandbox.namespace import NamespaceHost
    from palmette.sandbox.profile import Profile

    return NamespaceHost(profile=Profile(profile) if profile else None)


def _shards() -> Host:
    from palmette.sandbox.shards.host import ShardsHost

    return ShardsHost()


def _fake() -> Host:
    from palmette.sandbox.fake import FakeHost

    return FakeHost()


def _bubblewrap() -> Host:
    from palmette.sandbox.bubblewrap import BubblewrapHost

    return BubblewrapHost()


def _docker() -> Host:
    from palmette.sandbox.docker import DockerHost

    return DockerHost()


def _e2b() -> Host:
    from palmette.sandbox.e2b import E2BHost

    return E2BHost()


HOSTS: dict[str, Callable[[], Host]] = {
    "namespace": _default,  # the strongest profile this user can have
    "namespace:root": lambda: _namespace("root"),
    "namespace:root-inside": lambda: _namespace("root-inside"),
    "namespace:rootless": lambda: _namespace("rootless"),
    "shards": _shards,
    "bubblewrap": _bubblewrap,
    "docker": _docker,
    "e2b": _e2b,
    "fake": _fake,
}

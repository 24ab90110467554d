"""What of the kernel the profiles lean on, tried where it can be, and what there is instead where it is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from palmette.sandbox import cgroup, landlock
from palmette.sandbox.api import Host, SandboxError, Spec
from palmette.sandbox.images import store

_USER_NAMESPACE = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000) != 0)"


def cgroup_row(groups: cgroup.Cgroups) -> tuple[str, bool, str]:
    """Return the row of the controllers that limit a sandbox."""
    if not groups.version:
        instead = "memory is limited per process, processes by uid, pausing and Limits.cpus are refused"
        return "cgroups", False, f"{groups.reason}; instead {instead}"
    lacking = [] if groups.freezes else ["freezer (no pause)"]
    lacking += [] if groups.shares_cpu else ["cpu (a busy sandbox slows the next; Limits.cpus is refused)"]
    words = f"v{groups.version}: memory, pids" + (", freezer" * groups.freezes) + (", cpu" * groups.shares_cpu)
    return "cgroups", True, words + (f"; lacking {', '.join(lacking)}" if lacking else "")


def feature_rows() -> list[tuple[str, bool, str]]:
    """Return (what, whether it is there, detail or what is used instead). Blocks some 50 ms."""
    abi = landlock.abi()
    confines = abi >= landlock.WRITES
    instead = "" if confines else "; profile rootless cannot keep a sandbox from changing its own /etc"
    terminals = "devpts" in Path("/proc/filesystems").read_text().split()
    command = [sys.executable, "-I", "-S", "-c", _USER_NAMESPACE]
    nested = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
    userns = "can be made" if nested else "cannot be made: no profile rootless or root-inside; use root or docker"
    return [
        ("user namespaces", nested, userns),
        ("landlock", confines, f"ABI {abi}{instead}"),
        ("devpts", terminals, "in /proc/filesystems" if terminals else "missing: no sandbox starts without it"),
    ]


async def idmapped_row(host: Host) -> tuple[str, bool, str]:
    """Return whether images where they are kept can belong to root inside; `host` is of that profile."""
    place = store()
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=place) as root:
            os.chmod(root, 0o755)
            await (await host.start(Spec(owner="doctor", root=root))).close()
    except (SandboxError, OSError) as error:
        return "idmapped mounts", False, str(error)
    return "idmapped mounts", True, f"of {place}"

"""What every sandbox looks like inside, whatever host it runs on."""

from __future__ import annotations

import os
from collections.abc import Sequence

from palmette.sandbox.api import Spec

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DIRECTORIES = ("/tmp", "/var/tmp", "/tests", "/logs", "/logs/verifier", "/solution")  # writable, beside the workdir


def check_spec(spec: Spec) -> None:
    """Raise `ValueError` for a spec that makes no sense on any host."""
    limits = spec.limits
    for name in ("memory_mb", "pids", "disk_mb", "inodes", "output_bytes"):
        if getattr(limits, name) <= 0:
            raise ValueError(f"Limits.{name} must be positive, not {getattr(limits, name)}")
    if limits.cpus is not None and not 0.01 <= limits.cpus <= 10_000:
        raise ValueError(f"Limits.cpus must be 0.01 or more, not {limits.cpus}")
    if spec.ttl_s <= 0:
        raise ValueError(f"Spec.ttl_s must be positive, not {spec.ttl_s}")
    for path in (spec.workdir, *spec.readonly, *filter(None, (spec.root,))):
        if not path.startswith("/") or os.path.normpath(path) != path or path == "/" or "\0" in path:
            raise ValueError(f"{path!r} must be an absolute, normalised path below /")


def argv_of(command: str | Sequence[str]) -> tuple[str, ...]:
    """Return what to run: a string goes through a shell. Raises `ValueError` for nothing."""
    argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
    if not argv:
        raise ValueError("an empty command")
    return argv

"""Whether a seccomp filter can be installed: looked at from outside, because trying may never return.

On a kernel whose BPF allocator is stuck, installing any filter blocks for ever and cannot be killed. Such a kernel
shows itself by hundreds of workers of the ``events`` queue in uninterruptible sleep.
"""

from __future__ import annotations

import os
from pathlib import Path

_STUCK = 100  # workers in state D


def stuck_workers() -> int:
    """Return how many kernel workers are in uninterruptible sleep."""
    count = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                head, _, tail = Path(entry.path, "stat").read_text().rpartition(")")
            except OSError:  # it ended meanwhile
                continue
            count += tail[1:2] == "D" and "(kworker/" in head
    return count


def usable() -> bool:
    """Return whether this kernel filters system calls and is not stuck."""
    return Path("/proc/sys/kernel/seccomp/actions_avail").exists() and stuck_workers() < _STUCK

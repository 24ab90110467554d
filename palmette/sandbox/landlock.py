"""Landlock, the kernel's walls for programs without rights: how much of it there is (see ``native/landlock.c``)."""

from __future__ import annotations

import ctypes

_CREATE_RULESET, _VERSION = 444, 1  # the number is the same on every machine
WRITES = 2  # the ABI from which writing can be confined to some directories


def abi() -> int:
    """Return the version of Landlock's ABI, 0 where there is none."""
    return max(0, ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION))

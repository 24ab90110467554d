"""Doing something with files as another user, without becoming one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_libc = ctypes.CDLL(None)


def as_user(uid: int, action: Callable[..., _T], *words: object) -> _T:
    """Do something with files as the user `uid`, who is the only one that the sandbox's file system knows.

    This is a matter of the calling thread alone.
    """
    if uid < 0:
        return action(*words)
    _libc.setfsgid(uid)
    _libc.setfsuid(uid)
    try:
        return action(*words)
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(0)

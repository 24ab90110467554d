"""The key of a session: what it looks like, and whose session it is by the key alone."""

from __future__ import annotations

import secrets
import zlib

KEY_LENGTH = 32  # characters of every key made here


def new_key() -> str:
    """Return an unguessable key, of 186 random bits.

    It begins with a letter: agents get it as a word of a command line, where a dash would make it an option.
    """
    return "k" + secrets.token_urlsafe(24)[1:]


def owner_of(key: str, processes: int) -> int:
    """Return the number of the process that has a session, by its key alone."""
    return zlib.crc32(key.encode()) % processes

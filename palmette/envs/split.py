"""Which split a source or a template belongs to: all of its tasks are on one side, so that held-out means unseen."""

from __future__ import annotations

import hashlib

from palmette.envs.api import Split


def split_of(source: str, *, heldout_share: float = 0.2) -> Split:
    """Return the split of everything that comes from `source`: the first 8 bytes of its BLAKE2b, as a fraction.

    Raises `ValueError` for a share outside [0, 1].
    """
    if not 0.0 <= heldout_share <= 1.0:
        raise ValueError(f"heldout_share must be between 0 and 1, not {heldout_share}")
    digest = hashlib.blake2b(source.encode(), digest_size=8).digest()
    return "heldout" if int.from_bytes(digest) < heldout_share * 2.0**64 else "train"

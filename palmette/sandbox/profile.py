"""Which walls a namespace sandbox stands behind: what a user may choose, and what this machine can give."""

from __future__ import annotations

import os
from enum import StrEnum

from palmette.sandbox.api import StartFailed


class Profile(StrEnum):
    """`root`: a uid of its own and no capability. `root-inside`: root of a user namespace. `rootless`: without root."""

    ROOT = "root"
    ROOT_INSIDE = "root-inside"
    ROOTLESS = "rootless"


def settle(wanted: Profile | None) -> Profile:
    """Return `wanted`, or the strongest profile there is for this user. Raises `StartFailed`, never weakens it."""
    if os.geteuid() == 0:
        return wanted or Profile.ROOT
    if wanted in (None, Profile.ROOTLESS):
        return Profile.ROOTLESS
    raise StartFailed(f"profile '{wanted}' needs root (this is uid {os.geteuid()}); use 'namespace:rootless', weaker")

"""Hosts of sandboxes by name."""

from __future__ import annotations

from collections.abc import Callable

from palmette.errors import UserError, suggest
from palmette.sandbox.api import Host


def open_host(name: str) -> Host:
    """Return the host called `name` ("namespace" or "fake"). Raises `UserError` for an unknown name."""
    if name not in HOSTS:
        known = ", ".join(sorted(HOSTS))
        raise UserError(f"unknown sandbox host '{name}'{suggest(name, HOSTS)} (known: {known})")
    return HOSTS[name]()


def _namespace() -> Host:
    from palmette.sandbox.namespace import NamespaceHost

    return NamespaceHost()


def _fake() -> Host:
    from palmette.sandbox.fake import FakeHost

    return FakeHost()


HOSTS: dict[str, Callable[[], Host]] = {"namespace": _namespace, "fake": _fake}

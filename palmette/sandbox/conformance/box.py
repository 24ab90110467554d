"""A sandbox for one check, and the interpreter that checks may use in it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from palmette.sandbox.api import Host, Sandbox, Spec

_SYSTEM_PYTHON = "/usr/bin/python3"  # in every sandbox where the machine has it
PYTHON = _SYSTEM_PYTHON if os.path.exists(_SYSTEM_PYTHON) else os.path.realpath(sys.executable)
READONLY = () if PYTHON.startswith("/usr/") else (os.path.realpath(sys.base_prefix),)


@asynccontextmanager
async def box(host: Host, spec: Spec | None = None) -> AsyncIterator[Sandbox]:
    """Start a sandbox and close it at the end."""
    sandbox = await host.start(spec or Spec(owner="conformance"))
    try:
        yield sandbox
    finally:
        await sandbox.close()


async def raised(action: Awaitable[object], kind: type[Exception], what: object = "") -> str:
    """Return the text of the `kind` that `action` must raise."""
    try:
        await action
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}: {what!r}")


async def python(sandbox: Sandbox, program: str) -> bytes:
    """Return what a Python program prints in the sandbox (started with `READONLY`); it must end well."""
    result = await sandbox.exec([PYTHON, "-I", "-c", program])
    assert result.exit_code == 0, result.stderr.decode(errors="replace")
    return result.stdout

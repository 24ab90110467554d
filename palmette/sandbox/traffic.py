"""What sandboxes asked the network for: one line of JSON a request, in the user's state directory."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from palmette.sandbox.ledger import state_directory
from palmette.sandbox.proxy import Request

_LARGEST = 16 << 20  # bytes; then the file makes room, and the one before it is forgotten


def log_path() -> Path:
    """Return where the requests of all sandboxes of this user are written down."""
    return state_directory() / "network.jsonl"


def record(sandbox: str, owner: str, request: Request) -> None:
    """Write down a request of a sandbox. Never raises: a full disk must not stop the network."""
    line = json.dumps({"sandbox": sandbox, "owner": owner, **asdict(request)}).encode() + b"\n"
    with suppress(OSError):
        path = log_path()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, line) and os.fstat(fd).st_size > _LARGEST:
                os.replace(path, path.with_suffix(".old.jsonl"))
        finally:
            os.close(fd)

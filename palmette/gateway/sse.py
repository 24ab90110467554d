"""Server-sent events, the form in which every dialect streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

MEDIA_TYPE = "text/event-stream"
COMMENT = b": still sampling\n\n"  # every reader of the format skips lines that begin with a colon


def event(data: Mapping[str, Any], name: str | None = None) -> bytes:
    """Return one event of JSON data, under a name where the dialect has names."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(data) + b"\n\n"

"""Containers of a dead sandbox host: found by their label and removed, for the reaper, which has no event loop."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import quote

_API = "/v1.41"
_TIMEOUT_S = 60.0
LABEL = "palmette.host"


def remove_containers(engine: str, host: str) -> int:
    """Remove what is labelled with the name of a sandbox host; return how many there were. Raises `OSError`."""
    filters = quote(json.dumps({"label": [f"{LABEL}={host}"]}))
    found = _asked(engine, "GET", f"/containers/json?all=true&filters={filters}")
    for container in found:
        _asked(engine, "DELETE", f"/containers/{container['Id']}?force=true&v=true")
    return len(found)


def _asked(engine: str, method: str, path: str) -> Any:
    connection = http.client.HTTPConnection("engine", timeout=_TIMEOUT_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.settimeout(_TIMEOUT_S)
        connection.sock.connect(engine)
        connection.request(method, _API + path)
        answer = connection.getresponse()
        text = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"no answer of an engine ({error})") from None
    finally:
        connection.close()
    if answer.status >= 400 and answer.status != 404:  # 404: it has gone by itself meanwhile
        raise OSError(f"the engine says {answer.status} to {method} {path.partition('?')[0]}")
    return json.loads(text) if text.strip() and method == "GET" else None

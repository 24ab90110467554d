"""One question to a model behind an OpenAI-compatible endpoint, for those who build tasks or judge them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from palmette.errors import UserError

_ASK_S = 120.0


def ask(url: str, model: str, content: str | list[dict[str, Any]], *, key: str, wanted: str, **more: Any) -> Any:
    """Return the content of the answer of `model` at `url` (which ends before ``/chat/completions``).

    `more` are further fields of the request. Raises `UserError` that says that nothing `wanted` came back.
    """
    body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
    request = urllib.request.Request(
        f"{url.rstrip('/')}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json", "authorization": f"Bearer {key or 'none'}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_ASK_S) as response:
            return json.load(response)["choices"][0]["message"]["content"]
    except (urllib.error.URLError, OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{url}: no {wanted} came back ({type(error).__name__}: {error})") from None

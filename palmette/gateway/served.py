"""The one model of a gateway, as each dialect describes it."""

from __future__ import annotations

from typing import Any

from palmette.engine.api import Engine

MODEL_NAME = "palmette"


def openai_model(name: str, engine: Engine) -> dict[str, Any]:
    """Return the model as OpenAI's and Anthropic's clients list it, at once."""
    openai = {"id": name, "object": "model", "created": 0, "owned_by": "palmette"}
    anthropic = {"type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return openai | anthropic | {"max_model_len": engine.context_tokens}


def google_model(name: str, engine: Engine) -> dict[str, Any]:
    """Return the model as Google's clients list it."""
    limits = {"inputTokenLimit": engine.context_tokens, "outputTokenLimit": engine.context_tokens}
    verbs = ["generateContent", "streamGenerateContent", "countTokens"]
    return {"name": f"models/{name}", "displayName": name, **limits, "supportedGenerationMethods": verbs}

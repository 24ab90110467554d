"""Expert routes as servers tell them, made into those of a `Completion`: one row a token, -1 where nobody knows.

vLLM (started with ``--enable-return-routed-experts``; its documentation of 0.21): ``prompt_routed_experts`` of the
answer and ``routed_experts`` of the choice, lists (tokens, MoE layers, experts), -1 in rows of cached tokens; nothing
is told in a stream, nor of a request that was preempted. SGLang (the same flag, and ``return_routed_experts`` in the
request): ``meta_info.routed_experts``, base64 of little-endian int32 (tokens - 1, layers, experts), flat.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

from palmette.engine.api import EngineError


def listed(told: Any) -> np.ndarray | None:
    """Return nested lists as rows (tokens, layers, experts). Raises `EngineError`."""
    if told is None:
        return None
    try:
        rows_TLK = np.array(told, np.int16)
    except (TypeError, ValueError, OverflowError):
        rows_TLK = np.zeros(0, np.int16)
    if rows_TLK.ndim != 3:
        raise EngineError("the server's routed experts are no (tokens, layers, experts)")
    return rows_TLK


def packed(told: Any, tokens: int, experts_per_token: int) -> np.ndarray | None:
    """Return base64 of int32 as rows of a sequence of `tokens`. Raises `EngineError` for another number of them."""
    if told is None:
        return None
    try:
        flat = np.frombuffer(base64.b64decode(told, validate=True), "<i4")
    except (TypeError, ValueError, binascii.Error):
        raise EngineError("the server's routed experts are no base64 of int32") from None
    rows = tokens - 1  # the last token was sampled and not computed
    if rows < 1 or not flat.size or flat.size % (rows * experts_per_token):
        raise EngineError(f"the server tells {flat.size} routed experts of {rows} tokens, {experts_per_token} a layer")
    return flat.reshape(rows, -1, experts_per_token).astype(np.int16)


def padded(rows_TLK: np.ndarray, tokens: int) -> np.ndarray:
    """Return a row for each token, -1 behind those that were told. Raises `EngineError` for too many or too few."""
    missing = tokens - len(rows_TLK)
    if missing not in (0, 1):
        raise EngineError(f"the server tells the routes of {len(rows_TLK)} tokens, and there are {tokens}")
    return np.concatenate([rows_TLK, np.full((missing, *rows_TLK.shape[1:]), -1, np.int16)])

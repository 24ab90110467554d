"""Whether recorded trees hold exactly what an engine was given and emitted."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from palmette.trajectory.store import TreeStore


def compare(record: Path, trees: Path) -> dict[str, Any]:
    """Match every call of an engine's record with a turn of the trees: same prompt, same answer, same log-probs.

    Returns the number of calls and of tokens compared (prompts and answers), the tokens of calls and turns that have
    no counterpart, and the tokens that the trees hold.
    """
    seen, recorded = Counter[bytes](), Counter[bytes]()
    size: dict[bytes, int] = {}
    for prompt, ids, logprobs in calls(record):
        name = _name(prompt, ids, logprobs)
        seen[name] += 1
        size[name] = len(prompt) + len(ids)
    held = 0
    for _, tree in TreeStore(trees):
        held += tree.num_tokens
        turns: dict[int, int] = {}  # the last node of each turn
        for node in tree.nodes():
            if tree.node(node).turn >= 0:
                turns[tree.node(node).turn] = node
        for node in turns.values():
            path = tree.branch(node)
            start, end = path.turns[-1]
            name = _name(path.token_ids[:start], path.token_ids[start:end], path.logprob[start:end])
            recorded[name] += 1
            size[name] = end
    differing = sum(size[name] * count for name, count in ((seen - recorded) + (recorded - seen)).items())
    compared = sum(size[name] * count for name, count in seen.items())
    return {"compared_calls": seen.total(), "compared_tokens": compared, "differing_tokens": differing, "held": held}


def calls(record: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield prompt, ids and log-probs of every call in an engine's record."""
    with record.open("rb") as file:
        while head := file.read(8):
            prompt, answer = struct.unpack("<II", head)
            prompt_T = np.frombuffer(file.read(prompt), np.int32)
            said = file.read(answer)
            yield (
                prompt_T,
                np.frombuffer(said[: answer // 2], np.int32),
                np.frombuffer(said[answer // 2 :], np.float32),
            )


def _name(prompt: np.ndarray, ids: np.ndarray, logprobs: np.ndarray) -> bytes:
    parts = (prompt.astype(np.int32), ids.astype(np.int32), logprobs.astype(np.float32))
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(struct.pack("<I", len(part)) + part.tobytes())
    return digest.digest()

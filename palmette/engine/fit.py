"""Whether a model can run over slots: refused by name where it cannot, proven on a few tokens where it says it can."""

from __future__ import annotations

from typing import Any

import torch

from palmette.engine.forward import Forward
from palmette.errors import UserError
from palmette.model.decoder import odd_window, other_state

_GROWING_ROPE = ("dynamic", "longrope")  # frequencies change with the longest sequence in a pass
_LIMIT = {torch.float32: 1e-3, torch.float64: 1e-6}  # relative error of logits; 0.1 for shorter formats


def context_of(model: Any) -> int:
    """Return the most tokens the model's positions allow."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 4096)


def check_fit(model: Any, context_tokens: int) -> None:
    """Raise `UserError`, naming the part, for a model whose layers do not fit slots of keys and values."""
    config = model.config.get_text_config()
    name = type(model).__name__
    if other := other_state(model):
        raise UserError(f"{name} {other}, which the local engine does not run; serve it elsewhere")
    rope = getattr(config, "rope_parameters", None) or {}
    kind, original = rope.get("rope_type"), rope.get("original_max_position_embeddings", 0)
    if kind in _GROWING_ROPE and context_tokens > (original or context_of(model)):
        raise UserError(f"{name} has rope type {kind!r}; set context_tokens to at most {original or context_of(model)}")


@torch.inference_mode()
def prove_fit(forward: Forward) -> None:
    """Take the model over; raise `UserError` unless packed, cached passes give the logits of its own plain ones.

    Two short sequences go through plain passes, and through a pack of both followed by one decoding step.
    """
    model, vocab = forward.model, forward.model.config.get_text_config().vocab_size
    one, two = [(7 * t + 3) % vocab for t in range(9)], [(11 * t + 5) % vocab for t in range(6)]
    model_name = type(model).__name__
    try:
        plain = [model(input_ids=torch.tensor([ids], device=forward.device)).logits[0].float() for ids in (one, two)]
        forward.take()
        first, _ = forward.step((), (), [(0, one[:5], 0), (1, two[:4], 0)])
        later, plan = forward.step((one[5], two[4]), (5, 4), [(2, two[:5], 0)])
        last, _ = forward.step((), (), [(0, one[6:], 6)])
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise UserError(f"the local engine cannot run {model_name} ({error}); serve it elsewhere") from error
    got = torch.cat([first, later, last])
    expected = torch.stack([plain[0][4], plain[1][3], plain[0][5], plain[1][4], plain[1][4], plain[0][8]])
    errors = (got - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-12)
    # In short formats a near tie between experts may send one token another way, so there the median decides.
    error = errors.max() if model.dtype in _LIMIT else errors.median()
    if not error <= _LIMIT.get(model.dtype, 0.1):
        raise UserError(
            f"the local engine gives {model_name} other logits than the model itself (relative error "
            f"{error:.1e}); serve it elsewhere"
        )
    if odd := odd_window(model, plan.windows):
        raise UserError(f"{odd}; serve it elsewhere")

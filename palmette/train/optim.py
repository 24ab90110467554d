"""AdamW with warm-up and decay, whose whole state is a dict of named tensors."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

Decay = Literal["constant", "linear", "cosine"]


class OptimConfig(BaseModel):
    """How weights move."""

    model_config = ConfigDict(extra="forbid")

    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    warmup: float = Field(default=0.05, ge=0, le=1, description="share of the steps over which lr rises from 0")
    decay: Decay = Field(default="linear", description="constant | linear | cosine, after the warm-up")
    final: float = Field(default=0.1, ge=0, le=1, description="lr at the last step as a share of the peak")
    betas: tuple[float, float] = Field(default=(0.9, 0.98), description="AdamW's moment decay rates")
    eps: float = Field(
        default=1e-8, gt=0, description="added to AdamW's denominator; gradients well below it move little (less noise)"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled, on matrices only")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients longer than this are scaled down to it")


class Optimiser:
    """AdamW over a model's parameters with its schedule; counts its own updates."""

    def __init__(self, model: nn.Module, config: OptimConfig, total_steps: int) -> None:
        """Prepare for `total_steps` updates in all."""
        self.config = config
        self.total_steps = total_steps
        self.updates = 0
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = [p for p in self._named.values() if p.ndim >= 2]
        others = [p for p in self._named.values() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._adamw = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=config.eps
        )

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return self.config.lr * lr_factor(self.updates, self.total_steps, self.config)

    def update(self) -> dict[str, float]:
        """Clip, step, clear the gradients. A gradient that is not finite is dropped and reported, not applied."""
        norm = float(nn.utils.clip_grad_norm_(list(self._named.values()), self.config.max_grad_norm))
        lr = self.lr
        finite = math.isfinite(norm)
        if finite:
            for group in self._adamw.param_groups:
                group["lr"] = lr
            self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self.updates += 1
        return {"grad_norm": norm if finite else 0.0, "lr": lr, "dropped_updates": float(not finite)}

    def state(self) -> dict[str, Tensor]:
        """Return the moments as tensors named ``<moment>.<parameter>`` and the number of updates."""
        out: dict[str, Tensor] = {"updates": torch.tensor(self.updates)}
        for name, parameter in self._named.items():
            for key, value in self._adamw.state.get(parameter, {}).items():
                out[f"{key}.{name}"] = value
        return out

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned. Raises `ValueError` when it belongs to other parameters."""
        self.updates = int(state["updates"])
        for full, value in state.items():
            if full == "updates":
                continue
            key, _, name = full.partition(".")
            if name not in self._named or (key != "step" and value.shape != self._named[name].shape):
                raise ValueError(f"optimiser state for '{name}' does not fit this model")
            self._adamw.state[self._named[name]][key] = value.clone()


def lr_factor(update: int, total: int, config: OptimConfig) -> float:
    """Return the share of the peak learning rate at the `update`-th of `total` updates (from 0)."""
    warm = max(round(config.warmup * total), 1) if config.warmup > 0 else 0
    if update < warm:
        return (update + 1) / warm
    if config.decay == "constant":
        return 1.0
    progress = min((update - warm) / max(total - warm, 1), 1.0)
    shape = 1 - progress if config.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.final + (1 - config.final) * shape

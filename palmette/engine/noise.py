"""How far an engine's numbers may be off, on purpose: to study on any machine what noise does to training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Kinds of noise; all 0 is none. Draws are new in every pass and follow from `seed` and the order of passes.

    `logprob_var`: variance of a normal number that is added to every log-prob the engine tells, sampled or scored; what
    is sampled does not change. `router_std` and `capacity` change the passes themselves (`palmette.model.disturb`).
    Measured where models are served: a variance of some 1e-5 a token for dense models and 1e-3 for mixtures of experts
    (kwaipilot, Monte-Carlo log-prob averaging). Raises `ValueError` for a negative number.
    """

    logprob_var: float = 0.0
    router_std: float = 0.0
    capacity: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("logprob_var", "router_std", "capacity"):
            if getattr(self, name) < 0:
                raise ValueError(f"Noise.{name} must not be negative, but is {getattr(self, name)}")


class Disturbance:
    """Noise that goes on from pass to pass."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self._generator = torch.Generator().manual_seed(noise.seed)

    @contextmanager
    def on(self, model: Any) -> Iterator[None]:
        """Disturb the forward passes of `model` while entered. Raises `UserError` for one without known routers."""
        noise = self._noise
        if not (noise.router_std or noise.capacity):
            yield
            return
        from palmette.model.disturb import disturb

        with disturb(model, self._generator, router_std=noise.router_std, capacity=noise.capacity):
            yield

    def told(self, logprob: torch.Tensor) -> torch.Tensor:
        """Return log-probs as the engine tells them."""
        if not self._noise.logprob_var:
            return logprob
        noise = torch.randn(logprob.shape, generator=self._generator, dtype=torch.float32)
        return logprob + noise.to(logprob) * self._noise.logprob_var**0.5

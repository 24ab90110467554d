"""Random numbers of a game, on its own device: one generator for all copies, or one for each seed's share of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Draws:
    """A seeded source of random tensors whose position can be saved and restored."""

    def __init__(self, seed: int, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self._generators = [torch.Generator(self.device)]
        self.restart(seed)

    @property
    def sources(self) -> int:
        """How many generators take turns."""
        return len(self._generators)

    def restart(self, seed: int) -> None:
        """Begin anew from a seed, with one generator."""
        self._generators = self._generators[:1]
        self._generators[0].manual_seed(seed)

    def share(self, others: Sequence[Draws]) -> None:
        """Draw from the others' generators from now on, each for an equal part of the copies, in order."""
        self._generators = [generator for each in others for generator in each._generators]

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return numbers from [low, high); the first axis is copies, a whole number for each generator."""
        return low + (high - low) * uniform(self._generators, *shape, dtype=dtype)

    def below(self, limits_N: Tensor, batch: int) -> Tensor:
        """Return whole numbers_BN, number n uniform on 0 .. limits_N[n] - 1."""
        shares_BN = self.uniform(batch, len(limits_N), dtype=torch.float64)
        return (shares_BN * limits_N).long()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the position of the only generator."""
        (generator,) = self._generators
        return {"generator": generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a position."""
        (generator,) = self._generators
        generator.set_state(state["generator"])


def uniform(generators: Sequence[torch.Generator], *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers from [0, 1) whose first axis is made of equal parts, one a generator."""
    first, *rest = shape
    size = (first // len(generators), *rest)
    if size[0] * len(generators) != first:
        raise ValueError(f"{first} rows are no equal parts of {len(generators)} generators")
    parts = [torch.rand(size, generator=each, device=each.device, dtype=dtype) for each in generators]
    return parts[0] if len(parts) == 1 else torch.cat(parts)

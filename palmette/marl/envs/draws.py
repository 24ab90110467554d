"""Random numbers of a game: one generator of its own, on its own device."""

from __future__ import annotations

import torch
from torch import Tensor


class Draws:
    """A seeded source of random tensors whose position can be saved and restored."""

    def __init__(self, seed: int, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self._generator = torch.Generator(self.device)
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Begin anew from a seed."""
        self._generator.manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return numbers from [low, high)."""
        return low + (high - low) * torch.rand(shape, generator=self._generator, device=self.device, dtype=dtype)

    def below(self, limits_N: Tensor, batch: int) -> Tensor:
        """Return whole numbers_BN, number n uniform on 0 .. limits_N[n] - 1."""
        shares_BN = self.uniform(batch, len(limits_N), dtype=torch.float64)
        return (shares_BN * limits_N).long()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the generator's position."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a position."""
        self._generator.set_state(state["generator"])

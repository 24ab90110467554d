"""The physics of the multi-agent particle environments (MPE), for B worlds at once.

Equal to the `mpe2` package step for step (`mpe2/_mpe_utils/core.py`): forces from actions and soft contacts, damped
velocities, speed limits. Agents come first among the entities and move; landmarks do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STEP_S, DAMPING = 0.1, 0.25
CONTACT_FORCE, CONTACT_MARGIN = 1e2, 1e-3
ACTIONS = 5  # nothing, left, right, down, up


@dataclass(frozen=True, slots=True, kw_only=True)
class Bodies:
    """Constants of a world's entities: E of them, the first A of which are agents."""

    size_E: Tensor
    solid_E: Tensor  # bool: takes part in contacts
    push_A: Tensor  # force of an action
    top_speed_A: Tensor  # infinite where there is no limit

    @property
    def agents(self) -> int:
        """Number of entities that move."""
        return len(self.push_A)


def thrust(actions_BA: Tensor, bodies: Bodies) -> Tensor:
    """Return the force_BA2 of actions 0 .. 4: nothing, left, right, down, up."""
    directions = torch.tensor([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], device=actions_BA.device)
    return directions.to(bodies.push_A)[actions_BA] * bodies.push_A[:, None]


def contact_forces(positions_BE2: Tensor, bodies: Bodies) -> Tensor:
    """Return the force_BA2 that solid entities put on each agent: a softplus of how deep they overlap."""
    agents = bodies.agents
    apart_BAE2 = positions_BE2[:, :agents, None] - positions_BE2[:, None]
    distance_BAE = apart_BAE2.square().sum(-1).sqrt()
    touching_AE = bodies.size_E[:agents, None] + bodies.size_E
    overlap_BAE = (touching_AE - distance_BAE) / CONTACT_MARGIN
    depth_BAE = torch.logaddexp(overlap_BAE, torch.zeros_like(overlap_BAE)) * CONTACT_MARGIN
    itself_AE = torch.eye(agents, len(bodies.size_E), dtype=torch.bool, device=positions_BE2.device)
    meets_AE = bodies.solid_E[:agents, None] & bodies.solid_E & ~itself_AE
    # Two entities in exactly one place push each other nowhere (mpe2 divides by zero there).
    strength_BAE = CONTACT_FORCE * depth_BAE / distance_BAE.clamp(min=1e-12) * meets_AE.to(distance_BAE)
    return (strength_BAE[..., None] * apart_BAE2).sum(2)


def advance(positions_BE2: Tensor, velocities_BA2: Tensor, force_BA2: Tensor, bodies: Bodies) -> tuple[Tensor, Tensor]:
    """Return (positions_BE2, velocities_BA2) a step of 0.1 s later, contacts included."""
    agents = bodies.agents
    force_BA2 = force_BA2 + contact_forces(positions_BE2, bodies)
    moved_BA2 = positions_BE2[:, :agents] + velocities_BA2 * STEP_S
    velocities_BA2 = velocities_BA2 * (1 - DAMPING) + force_BA2 * STEP_S
    speed_BA1 = velocities_BA2.square().sum(-1, keepdim=True).sqrt()
    too_fast_BA1 = speed_BA1 > bodies.top_speed_A[:, None]
    slowed_BA2 = velocities_BA2 / speed_BA1.clamp(min=1e-12) * bodies.top_speed_A[:, None].nan_to_num(posinf=0.0)
    positions_BE2 = torch.cat([moved_BA2, positions_BE2[:, agents:]], 1)
    return positions_BE2, torch.where(too_fast_BA1, slowed_BA2, velocities_BA2)


def distances(one_BX2: Tensor, other_BY2: Tensor) -> Tensor:
    """Return the distance_BXY between points."""
    return (one_BX2[:, :, None] - other_BY2[:, None]).square().sum(-1).sqrt()


def others_of(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Return, for each of `count` agents, the indices_NM of the others in order, M = count - 1."""
    index = torch.arange(count, device=device)
    return torch.stack([torch.cat([index[:n], index[n + 1 :]]) for n in range(count)])

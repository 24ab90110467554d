"""Games by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from palmette.errors import UserError, suggest
from palmette.marl.envs.api import Game
from palmette.marl.envs.hallway import Hallway, HallwayConfig
from palmette.marl.envs.navigation import Navigation, NavigationConfig
from palmette.marl.envs.predators import Predators, PredatorsConfig
from palmette.marl.envs.scout import Scout, ScoutConfig
from palmette.marl.envs.smac import SmacConfig, open_smac
from palmette.marl.envs.smax import Smax, SmaxConfig

# name -> (its config, what makes it from config, batch=, seed=, device=)
GAMES: dict[str, tuple[type[BaseModel], Callable[..., Game]]] = {
    "hallway": (HallwayConfig, Hallway),
    "navigation": (NavigationConfig, Navigation),
    "predators": (PredatorsConfig, Predators),
    "scout": (ScoutConfig, Scout),
    "smac": (SmacConfig, open_smac),
    "smax": (SmaxConfig, Smax),
}


def open_game(name: str, config: Any = None, *, batch: int, seed: int = 0, device: str = "cpu") -> Game:
    """Return `batch` copies of a game, as `config` or its defaults say. Raises `UserError` for a name there is not."""
    if name not in GAMES:
        raise UserError(f"no game '{name}'{suggest(name, GAMES)} (known: {', '.join(GAMES)})")
    kind, make = GAMES[name]
    return make(config if config is not None else kind(), batch=batch, seed=seed, device=device)

"""SMAC, the StarCraft II micromanagement games, through the published `smac` package (oxwhirl/smac).

Needs StarCraft II, which only its maker may hand out; nothing here stands in for it. A SMAX game is not SMAC.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from palmette.errors import UserError, suggest
from palmette.marl.envs.pymarl import FromPyMarl

_HOW = (
    "install StarCraft II 4.10 for Linux (github.com/Blizzard/s2client-proto), put SMAC's maps into its Maps/, "
    "set SC2PATH to its folder, and: pip install git+https://github.com/oxwhirl/smac"
)


class SmacConfig(BaseModel):
    """Which map, and how far units see."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    map: str = Field(default="3m", description="a map of the smac package, such as 3m, 2s3z, MMM2")
    sight_range: float | None = Field(default=None, gt=0, description="how far a unit sees; none: as published (9)")


def open_smac(config: SmacConfig, *, batch: int, seed: int = 0, device: str = "cpu") -> FromPyMarl:
    """Return `batch` StarCraft II games. Raises `UserError` with what to install, or for a map that is not there."""
    try:
        module = importlib.import_module("smac.env")
        known = importlib.import_module("smac.env.starcraft2.maps.smac_maps").get_smac_map_registry()
    except (ImportError, AttributeError):  # PyPI's package of that name is an optimiser
        raise UserError(f"the game smac needs the smac package of oxwhirl; {_HOW}") from None
    folder = Path(os.environ.get("SC2PATH", Path.home() / "StarCraftII"))
    if not (folder / "Versions").is_dir():
        raise UserError(f"the game smac needs StarCraft II, and there is none in {folder}; {_HOW}")
    if config.map not in known:
        raise UserError(f"no SMAC map '{config.map}'{suggest(config.map, known)}; the package has {len(known)} maps")

    def make(copy_seed: int) -> Any:
        env = module.StarCraft2Env(map_name=config.map, seed=copy_seed)
        if config.sight_range is not None:
            sight = config.sight_range
            env.unit_sight_range = lambda _agent_id: sight  # the package has a constant where others have an option
        return env

    return FromPyMarl("smac", make, batch=batch, seed=seed, device=device)

"""Ways of communicating by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from palmette.errors import UserError, suggest
from palmette.marl.comm.api import Sizes
from palmette.marl.comm.full import Full, FullConfig
from palmette.marl.comm.maic import Maic, MaicConfig
from palmette.marl.comm.masia import Masia, MasiaConfig
from palmette.marl.comm.none import Silent
from palmette.marl.comm.oracle import Oracle
from palmette.marl.comm.random import RandomConfig, RandomLinks
from palmette.marl.comm.t2mac import T2mac, T2macConfig
from palmette.marl.comm.t2mac_plus import T2macPlus, T2macPlusConfig
from palmette.marl.comm.tarmac import Tarmac, TarmacConfig

# name -> (its config, or None; what makes it from sizes and config)
METHODS: dict[str, tuple[type[BaseModel] | None, Callable[..., Any]]] = {
    "none": (None, lambda sizes, _: Silent(sizes)),
    "full": (FullConfig, Full),
    "random": (RandomConfig, RandomLinks),
    "oracle": (None, lambda sizes, _: Oracle(sizes)),
    "tarmac": (TarmacConfig, Tarmac),
    "maic": (MaicConfig, Maic),
    "masia": (MasiaConfig, Masia),
    "t2mac": (T2macConfig, T2mac),
    "t2mac_plus": (T2macPlusConfig, T2macPlus),
}


def open_method(name: str, sizes: Sizes, config: Any = None) -> Any:
    """Return a way of communicating (a `Comm`), as `config` or its defaults say.

    Raises `UserError` for a name there is not, or a budget of more receivers than there are.
    """
    if name not in METHODS:
        raise UserError(f"no method '{name}'{suggest(name, METHODS)} (known: {', '.join(METHODS)})")
    kind, make = METHODS[name]
    if config is None and kind is not None:
        config = kind()
    budget = getattr(config, "budget", None)
    if budget is not None and budget >= sizes.agents:
        raise UserError(f"{name}.budget is {budget}, but a sender has {sizes.agents - 1} others to tell; lower it")
    return make(sizes, config)

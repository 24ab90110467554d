"""What a recipe for agents that learn to talk may say: a game, a method, and how to learn."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from palmette.errors import suggest
from palmette.marl.comm.full import FullConfig
from palmette.marl.comm.maic import MaicConfig
from palmette.marl.comm.masia import MasiaConfig
from palmette.marl.comm.names import METHODS
from palmette.marl.comm.random import RandomConfig
from palmette.marl.comm.t2mac import T2macConfig
from palmette.marl.comm.t2mac_plus import T2macPlusConfig
from palmette.marl.comm.tarmac import TarmacConfig
from palmette.marl.envs.hallway import HallwayConfig
from palmette.marl.envs.names import GAMES
from palmette.marl.envs.navigation import NavigationConfig
from palmette.marl.envs.predators import PredatorsConfig
from palmette.marl.envs.scout import ScoutConfig
from palmette.marl.envs.smac import SmacConfig
from palmette.marl.envs.smax import SmaxConfig
from palmette.marl.learn import LearnConfig


class TestConfig(BaseModel):
    """Measuring a network without exploration."""

    model_config = ConfigDict(extra="forbid")
    __test__ = False  # pytest: this is no test

    times: int = Field(default=20, ge=1, description="measurements over a training")
    episodes: int = Field(default=256, ge=1, description="episodes of each")


class MarlRecipe(BaseModel):
    """One method on one game, with one or several seeds."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["marl"] = "marl"
    name: str = Field(default="marl", min_length=1, description="name of the run")
    seed: int = Field(default=0, ge=0, description="the first seed; everything random follows from it")
    seeds: int = Field(default=1, ge=1, description="trainings, each with the next seed")
    together: int = Field(default=5, ge=1, description="seeds that train side by side: the same result, less work")
    threads: int = Field(default=1, ge=0, description="threads of torch; 0 leaves it to torch")
    steps: int = Field(default=300_000, ge=1, description="environment steps of a training, at least")
    game: str = Field(default="scout", description=f"one of {', '.join(GAMES)}; its section configures it")
    method: str = Field(default="t2mac_plus", description=f"one of {', '.join(METHODS)}; its section configures it")
    mixer: Literal["qmix", "vdn"] = Field(default="qmix", description="how agents' values make the team's")
    learn: LearnConfig = Field(default_factory=LearnConfig, description="hyper-parameters")
    test: TestConfig = Field(default_factory=TestConfig, description="measuring")
    hallway: HallwayConfig = Field(default_factory=HallwayConfig, description="the game hallway")
    navigation: NavigationConfig = Field(default_factory=NavigationConfig, description="the game navigation")
    predators: PredatorsConfig = Field(default_factory=PredatorsConfig, description="the game predators")
    scout: ScoutConfig = Field(default_factory=ScoutConfig, description="the game scout")
    smac: SmacConfig = Field(default_factory=SmacConfig, description="the game smac")
    smax: SmaxConfig = Field(default_factory=SmaxConfig, description="the game smax")
    full: FullConfig = Field(default_factory=FullConfig, description="the method full")
    random: RandomConfig = Field(default_factory=RandomConfig, description="the method random")
    tarmac: TarmacConfig = Field(default_factory=TarmacConfig, description="the method tarmac")
    maic: MaicConfig = Field(default_factory=MaicConfig, description="the method maic")
    masia: MasiaConfig = Field(default_factory=MasiaConfig, description="the method masia")
    t2mac: T2macConfig = Field(default_factory=T2macConfig, description="the method t2mac")
    t2mac_plus: T2macPlusConfig = Field(default_factory=T2macPlusConfig, description="the method t2mac_plus")

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for what, name, known in (("game", self.game, GAMES), ("method", self.method, METHODS)):
            if name not in known:
                raise ValueError(f"no {what} '{name}'{suggest(name, known)} (known: {', '.join(known)})")
        return self

    @property
    def game_config(self) -> Any:
        """The section of the game that is played."""
        return getattr(self, self.game)

    @property
    def method_config(self) -> Any:
        """The section of the method, None for those that have nothing to configure."""
        return getattr(self, self.method, None)

    @property
    def warm_steps(self) -> int:
        """Environment steps for which a gate that learns is held open."""
        return round(getattr(self.method_config, "warm_up", 0.0) * self.steps)

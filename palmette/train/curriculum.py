"""The three axes along which reinforcement learning is widened: how hard tasks are, how they are told, who drives."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from palmette.rollout.casting import Casting, cast
from palmette.rollout.crew import Crew

Intent = Literal["specification", "request", "colloquial"]  # palmette.envs.api.INTENTS


class CurriculumConfig(BaseModel):
    """What a step's groups are made of; each axis is off unless it is asked for (KAT-Coder-V2, section 3.2)."""

    model_config = ConfigDict(extra="forbid")

    complexity: bool = Field(
        default=False, description="prefer tasks that the policy solves sometimes: those whose pass rate is in `band`"
    )
    band: tuple[float, float] = Field(default=(0.1, 0.9), description="least and largest pass rate worth a group")
    stale: int = Field(default=8, ge=1, description="steps after which a pass rate is measured anew")
    probe: float = Field(default=0.25, ge=0, le=1, description="share of a step's groups that measure such tasks")
    intents: list[Intent] = Field(
        default_factory=list,
        description="phrasings that a group's samples are told, in turn; none: the task's own",
    )
    scaffold: bool = Field(
        default=False, description="the samples of a group are driven by the scaffolds of [agents] in turn, not by one"
    )

    @property
    def parts_a_group(self) -> bool:
        """Whether samples of one group differ in more than their seed."""
        return self.scaffold or len(self.intents) > 1

    @model_validator(mode="after")
    def _band_is_one(self) -> Self:
        low, high = self.band
        if not 0 <= low <= high <= 1:
            raise ValueError(f"band = [{low}, {high}]: write the least and the largest pass rate, between 0 and 1")
        if len(set(self.intents)) < len(self.intents):
            raise ValueError(f"intents names one twice: {', '.join(self.intents)}")
        return self


def plan(config: CurriculumConfig, crew: Crew, *, start: int, samples: int) -> Casting:
    """Return the casting of a step's groups of `samples`, `start` of which came in the steps before."""
    return cast(crew, start=start, samples=samples, intents=config.intents, within=config.scaffold)

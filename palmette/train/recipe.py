"""What a recipe may say. Each stage's section lies beside the code that uses it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from palmette.envs.names import DOMAINS
from palmette.errors import suggest
from palmette.sandbox.hosts import HOSTS
from palmette.scaffolds.names import SCAFFOLDS
from palmette.train.config import TrainConfig
from palmette.train.distil import DistilConfig
from palmette.train.rl import RlConfig
from palmette.train.serving import EngineConfig
from palmette.train.sft import SftConfig


class ModelConfig(BaseModel):
    """The model that everything starts from."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(default="palmette:base", description="palmette:base, or any causal language model's directory")
    dtype: str = Field(default="float32", description="of weights and arithmetic")
    device: str = Field(default="cpu", description="cpu | cuda | cuda:1 ...")


class TasksConfig(BaseModel):
    """Tasks to build for one domain."""

    model_config = ConfigDict(extra="forbid")

    train: int = Field(default=200, ge=1, description="tasks to learn from")
    heldout: int = Field(default=50, ge=1, description="tasks to measure on; no names in common with train")
    tiers: list[int] = Field(default_factory=lambda: [1, 2, 3], min_length=1, description="difficulties, in turn")


class EvalConfig(BaseModel):
    """Measuring a model on the held-out tasks."""

    model_config = ConfigDict(extra="forbid")

    samples: int = Field(default=1, ge=1, description="attempts a task")
    temperature: float = Field(default=0.0, ge=0, description="0 is greedy")


class NoiseConfig(BaseModel):
    """What the engine gets wrong on purpose, to see what training makes of it; all 0 is nothing."""

    model_config = ConfigDict(extra="forbid")

    logprob_var: float = Field(default=0.0, ge=0, description="variance of an error on every log-prob that it tells")
    router_std: float = Field(default=0.0, ge=0, description="of an error on router logits: experts flip")
    capacity: float = Field(default=0.0, ge=0, description="shares of a pass's tokens an expert takes; 0: no limit")
    seed: int = Field(default=0, ge=0, description="of the errors")


class Recipe(BaseModel):
    """Specialise, then unify."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["specialise_then_unify"] = Field(
        default="specialise_then_unify", description="what is made: specialise_then_unify (base, marl: see recipes/)"
    )
    name: str = Field(default="demo", min_length=1, description="name of the run")
    seed: int = Field(default=0, ge=0, description="everything random follows from it")
    domains: list[str] = Field(
        default_factory=lambda: ["terminal", "swe"], min_length=1, description="one expert is trained for each"
    )
    stages: list[Literal["sft", "rl", "distil"]] = Field(
        default_factory=lambda: ["sft", "rl", "distil"],
        description="training stages to run; leave some out to skip them",
    )
    baselines: list[Literal["average", "offline_sft", "mixed_rl"]] = Field(
        default_factory=list,
        description="beside the student: mean of the experts' weights | imitation of what they solved | RL on all",
    )
    scaffold: str = Field(default="loop", description="the program that drives the model")
    sandbox: str = Field(default="namespace", description="host of the sandboxes")
    concurrency: int = Field(default=32, ge=1, description="rollouts at the same time")
    max_tokens: int = Field(default=256, ge=1, description="most tokens of one turn")
    threads: int = Field(default=0, ge=0, description="threads of torch; 0 leaves it to torch")
    model: ModelConfig = Field(default_factory=ModelConfig, description="what everything starts from")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="what samples the rollouts")
    noise: NoiseConfig = Field(default_factory=NoiseConfig, description="errors of the engine, for experiments")
    tasks: dict[str, TasksConfig] = Field(default_factory=dict, description="tasks of each domain")
    sft: SftConfig = Field(default_factory=SftConfig, description="training on demonstrations")
    rl: RlConfig = Field(default_factory=RlConfig, description="reinforcement learning in sandboxes")
    distil: DistilConfig = Field(default_factory=DistilConfig, description="unifying the experts in one student")
    train: TrainConfig = Field(default_factory=TrainConfig, description="how gradients are computed")
    eval: EvalConfig = Field(default_factory=EvalConfig, description="measuring on held-out tasks")

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for domain in self.domains:
            if domain not in DOMAINS:
                raise ValueError(_unknown("domain", domain, DOMAINS))
        if len(set(self.domains)) < len(self.domains):
            raise ValueError(f"domains names one twice: {', '.join(self.domains)}")
        if self.sandbox not in HOSTS:
            raise ValueError(_unknown("sandbox", self.sandbox, HOSTS))
        if self.scaffold not in SCAFFOLDS:
            raise ValueError(_unknown("scaffold", self.scaffold, SCAFFOLDS))
        for section, named in (("tasks", self.tasks), ("distil.teachers", self.distil.teachers)):
            for domain in named:
                if domain not in DOMAINS:
                    raise ValueError(_unknown(f"domain in {section}:", domain, DOMAINS))
        return self

    @model_validator(mode="after")
    def _noise_is_ours(self) -> Self:
        if self.engine.kind != "local" and self.noise != NoiseConfig(seed=self.noise.seed):
            raise ValueError(f"noise is of the engine in this process, and engine.kind is {self.engine.kind}")
        return self

    @model_validator(mode="after")
    def _every_domain_has_tasks(self) -> Self:
        for domain in self.domains:
            known = list(DOMAINS[domain].tiers)
            config = self.tasks.setdefault(domain, TasksConfig(tiers=known))
            if wrong := [tier for tier in config.tiers if tier not in known]:
                raise ValueError(f"tasks.{domain}.tiers: there is no tier {wrong[0]}; {domain} has {known}")
        return self


def read_recipe(path: Path, overrides: Sequence[str]) -> BaseModel:
    """Read a recipe file as the model its `kind` names. Raises `UserError` in one line."""
    from palmette.config import load_recipe

    return load_recipe(path, overrides, recipe_model(path))


def recipe_model(path: Path) -> type[Any]:
    """Return the model of a recipe file's `kind`; of one that cannot be read, the model whose reader will complain."""
    import tomllib

    try:
        kind = tomllib.loads(path.read_text(encoding="utf-8")).get("kind", "")
    except (OSError, ValueError):
        kind = ""
    return KINDS.get(kind, lambda: Recipe)()


def _base() -> type[BaseModel]:
    from palmette.train.base.recipe import BaseRecipe

    return BaseRecipe


def _marl() -> type[BaseModel]:
    from palmette.marl.recipe import MarlRecipe

    return MarlRecipe


KINDS = {"specialise_then_unify": lambda: Recipe, "base": _base, "marl": _marl}


def _unknown(what: str, name: str, known: Any) -> str:
    return f"unknown {what} '{name}'{suggest(name, known)} (known: {', '.join(sorted(known))})"

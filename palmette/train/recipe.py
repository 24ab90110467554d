"""What a recipe may say. Each stage's section lies beside the code that uses it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from palmette.envs.names import DOMAINS
from palmette.errors import suggest
from palmette.gateway.journal import Sync
from palmette.rollout.crew import ALL
from palmette.scaffolds.api import Pausing
from palmette.scaffolds.names import SCAFFOLDS
from palmette.train.config import TrainConfig
from palmette.train.curriculum import CurriculumConfig, Intent
from palmette.train.distil import DistilConfig
from palmette.train.rl import RlConfig
from palmette.train.serving import EngineConfig
from palmette.train.sft import SftConfig
from palmette.train.walls import SandboxConfig


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
    heldout_tiers: list[int] = Field(
        default_factory=list, description="those of the held-out tasks, if other ones: harder than any in training, say"
    )


class EvalConfig(BaseModel):
    """Measuring a model on the held-out tasks."""

    model_config = ConfigDict(extra="forbid")

    samples: int = Field(default=1, ge=1, description="attempts a task")
    temperature: float = Field(default=0.0, ge=0, description="0 is greedy")
    experts_everywhere: bool = Field(
        default=False, description="measure each expert on the other domains too, not on its own alone"
    )
    scaffold: str | None = Field(
        default=None, description="what drives held-out tasks; none: the scaffolds of [agents] by their shares"
    )
    intents: list[Intent] = Field(
        default_factory=list, description="phrasings in which all held-out tasks are attempted once more"
    )
    scaffolds: list[str] = Field(
        default_factory=list, description="scaffolds by which they are, also such as no training rollout had"
    )


class GatewayConfig(BaseModel):
    """What stands between agents and the engine."""

    model_config = ConfigDict(extra="forbid")

    journal: bool = Field(
        default=False, description="keep every answer on disk before an agent is told it: a killed run loses none"
    )
    sync: Sync = Field(default="fsync", description="a kept answer outlives: fsync, the machine | write, this process")
    processes: int = Field(
        default=1, ge=1, description="that answer agents, beside the run's own; 1: it does so itself"
    )


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
    baselines: list[Literal["average", "offline_sft", "mixed_rl", "by_domain", "by_evidence"]] = Field(
        default_factory=list,
        description="beside the student: mean of the experts' weights | imitation of what they solved | RL on all, "
        "with the rollouts of experts and student | a second student, by the other distil.choose",
    )
    scaffold: str = Field(default="loop", description="what drives the model: loop, an agent's name, or its TOML file")
    agents: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="domain (or all) -> scaffold -> share of the rollouts, where more than one drives",
    )
    sandbox: SandboxConfig = Field(default_factory=SandboxConfig, description="where agents work; a name is its host")
    concurrency: int = Field(default=32, ge=1, description="rollouts at the same time")
    max_tokens: int = Field(default=256, ge=1, description="most tokens of one turn")
    threads: int = Field(default=0, ge=0, description="threads of torch; 0 leaves it to torch")
    model: ModelConfig = Field(default_factory=ModelConfig, description="what everything starts from")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="what samples the rollouts")
    gateway: GatewayConfig = Field(default_factory=GatewayConfig, description="between agents and engine")
    noise: NoiseConfig = Field(default_factory=NoiseConfig, description="errors of the engine, for experiments")
    tasks: dict[str, TasksConfig] = Field(default_factory=dict, description="tasks of each domain")
    sft: SftConfig = Field(default_factory=SftConfig, description="training on demonstrations")
    rl: RlConfig = Field(default_factory=RlConfig, description="reinforcement learning in sandboxes")
    distil: DistilConfig = Field(default_factory=DistilConfig, description="unifying the experts in one student")
    curriculum: CurriculumConfig = Field(
        default_factory=CurriculumConfig, description="which tasks, told how, driven by what: the three axes"
    )
    train: TrainConfig = Field(default_factory=TrainConfig, description="how gradients are computed")
    eval: EvalConfig = Field(default_factory=EvalConfig, description="measuring on held-out tasks")

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for domain in self.domains:
            if domain not in DOMAINS:
                raise ValueError(_unknown("domain", domain, DOMAINS))
        if len(set(self.domains)) < len(self.domains):
            raise ValueError(f"domains names one twice: {', '.join(self.domains)}")
        for name in (
            self.scaffold,
            *(name for shares in self.agents.values() for name in shares),
            *self.eval.scaffolds,
            *filter(None, [self.eval.scaffold]),
        ):
            if name not in SCAFFOLDS:
                raise ValueError(_unknown("scaffold", name, SCAFFOLDS))
        sections = {"tasks": self.tasks, "distil.teachers": self.distil.teachers, "agents": self.agents}
        for section, named in sections.items():
            for domain in named:
                if domain not in DOMAINS and (section, domain) != ("agents", ALL):
                    raise ValueError(_unknown(f"domain in {section}:", domain, DOMAINS))
        return self

    @model_validator(mode="after")
    def _students_differ(self) -> Self:
        if self.distil.choose in self.baselines:
            raise ValueError(
                f"baselines: {self.distil.choose} is how the student chooses already (distil.choose): name the other"
            )
        return self

    @model_validator(mode="after")
    def _noise_is_ours(self) -> Self:
        if self.engine.kind != "local" and self.noise != NoiseConfig(seed=self.noise.seed):
            raise ValueError(f"noise is of the engine in this process, and engine.kind is {self.engine.kind}")
        return self

    @model_validator(mode="after")
    def _agents_fit(self) -> Self:
        for domain, shares in self.agents.items():
            if wrong := next((name for name, share in shares.items() if not share > 0), None):
                raise ValueError(f"agents.{domain}: the share of {wrong} must be more than 0; leave it out for none")
        if self.curriculum.scaffold and not any(len(shares) > 1 for shares in self.agents.values()):
            raise ValueError("curriculum.scaffold spreads a group over scaffolds: name two or more in [agents.all]")
        for stage in ("rl", "distil"):
            if getattr(self, stage).branch_at is None or stage not in self.stages:
                continue
            if self.curriculum.parts_a_group:
                raise ValueError(f"{stage}.branch_at grows one trunk a task, so curriculum cannot part its samples")
            for name in self._drivers():
                if not isinstance(SCAFFOLDS[name](), Pausing):
                    raise ValueError(f"{stage}.branch_at needs a scaffold that can pause, and {name} cannot: use loop")
        return self

    def _drivers(self) -> tuple[str, ...]:
        """Return every scaffold that may drive a rollout of training."""
        return (self.scaffold, *(name for shares in self.agents.values() for name in shares))

    @model_validator(mode="after")
    def _every_domain_has_tasks(self) -> Self:
        for domain in self.domains:
            known = list(DOMAINS[domain].tiers)
            config = self.tasks.setdefault(domain, TasksConfig(tiers=known))
            for key, tiers in (("tiers", config.tiers), ("heldout_tiers", config.heldout_tiers)):
                if wrong := [tier for tier in tiers if tier not in known]:
                    raise ValueError(f"tasks.{domain}.{key}: there is no tier {wrong[0]}; {domain} has {known}")
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

"""The recipe of the embedded base model: what to generate, how large the model is, how long to train."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from palmette.envs.names import DOMAINS
from palmette.errors import suggest
from palmette.train.config import TrainConfig
from palmette.train.optim import OptimConfig


class Shape(BaseModel):
    """Size of the Qwen3-MoE decoder; embeddings are tied."""

    model_config = ConfigDict(extra="forbid")

    hidden: int = Field(default=128, gt=0, description="width of the residual stream")
    layers: int = Field(default=3, gt=0, description="decoder layers")
    heads: int = Field(default=4, gt=0, description="query heads")
    kv_heads: int = Field(default=2, gt=0, description="key-value heads")
    head_dim: int = Field(default=32, gt=0, description="width of a head")
    experts: int = Field(default=8, gt=0, description="experts a layer")
    experts_per_token: int = Field(default=2, gt=0, description="experts that see a token")
    expert_dim: int = Field(default=128, gt=0, description="inner width of an expert")
    context: int = Field(default=2048, gt=0, description="longest sequence in tokens")
    vocab: int = Field(default=1024, gt=300, description="tokens of the BPE vocabulary")


class Corpus(BaseModel):
    """What the transcripts are made of."""

    model_config = ConfigDict(extra="forbid")

    domains: list[str] = Field(default=["terminal", "swe"], min_length=1, description="whose tasks are worked on")
    shares: dict[str, float] = Field(default_factory=dict, description="weight of a domain among them; 1 if not named")
    tiers: dict[str, list[int]] = Field(
        default_factory=lambda: {"terminal": [1, 2, 3], "swe": [1, 2, 3]},
        description="difficulties of a domain, drawn evenly; the first alone if not named",
    )
    sloppy: float = Field(default=0.5, ge=0, le=1, description="share of transcripts with one wrong step")

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for section, named in (("domains", self.domains), ("shares", self.shares), ("tiers", self.tiers)):
            for name in named:
                if name not in DOMAINS:
                    raise ValueError(f"corpus.{section}: unknown domain '{name}'{suggest(name, DOMAINS)}")
        if stray := sorted(set(self.shares) - set(self.domains)):
            raise ValueError(f"corpus.shares: '{stray[0]}' is not among the domains")
        if min(self.weights.values()) < 0 or not any(self.weights.values()):
            raise ValueError("corpus.shares must be at least 0, and one of them above")
        for name in self.domains:
            if wrong := set(self.levels[name]) - set(DOMAINS[name].tiers) or not self.levels[name]:
                raise ValueError(f"corpus.tiers: {name} has {list(DOMAINS[name].tiers)}, not {wrong}")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every domain."""
        return {name: self.shares.get(name, 1.0) for name in self.domains}

    @property
    def levels(self) -> dict[str, list[int]]:
        """The tiers of every domain."""
        return {name: self.tiers.get(name, [DOMAINS[name].tiers[0]]) for name in self.domains}


class BaseRecipe(BaseModel):
    """Everything `palmette run recipes/base.toml` does."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["base"] = "base"
    name: str = Field(default="base", description="name of the run directory")
    seed: int = Field(default=1, description="seed of corpus, weights and order")
    steps: int = Field(default=1500, gt=0, description="optimiser steps")
    batch: int = Field(default=32, gt=0, description="transcripts a step")
    token_budget: int = Field(default=3000, gt=0, description="padded tokens of a micro-batch")
    save_every: int = Field(default=200, gt=0, description="steps between checkpoints")
    train: TrainConfig = Field(default_factory=TrainConfig, description="how gradients are computed")
    shape: Shape = Field(default_factory=Shape)
    corpus: Corpus = Field(default_factory=Corpus)
    optim: OptimConfig = Field(default_factory=lambda: OptimConfig(lr=3e-3, decay="cosine", final=0.05))

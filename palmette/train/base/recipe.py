"""The recipe of the embedded base model: what to generate, how large the model is, how long to train."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

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

    domains: list[str] = Field(default=["terminal", "swe"], description="domains, in turn")
    tiers: list[int] = Field(default=[1, 2, 3], description="difficulties, drawn evenly")
    sloppy: float = Field(default=0.5, ge=0, le=1, description="share of transcripts with one wrong step")


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

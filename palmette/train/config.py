"""How gradients are computed, whatever they are of: the section `train` of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """The way of computing gradients; it changes time and memory, never the result."""

    model_config = ConfigDict(extra="forbid")

    tree: Literal["on", "off"] = Field(
        default="on", description="on: a prefix that samples share is computed once; off: every sample on its own"
    )
    recompute: bool = Field(
        default=False, description="keep keys and values alone of a tree's upper parts and run these parts twice"
    )
    measure: bool = Field(
        default=False, description="also time the first step of a stage without trees and log the speed-up"
    )
    load_balance: float = Field(
        default=0.0, ge=0, description="weight of the loss that spreads tokens over experts (mixtures of experts)"
    )

"""What all sessions of one gateway share."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from palmette.gateway.journal import Journal
from palmette.gateway.metrics import Metrics
from palmette.gateway.places import Places


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The thread that tokenises long texts, the places at the engine, the counters, and the journal if there is one."""

    tokenising: Executor
    places: Places
    metrics: Metrics
    journal: Journal | None = None

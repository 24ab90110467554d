"""Control flows by name; "best" goes around the whole loop."""

from __future__ import annotations

from palmette.scaffolds.flows.api import Flow
from palmette.scaffolds.flows.plan import Plan
from palmette.scaffolds.flows.react import React
from palmette.scaffolds.flows.reflect import Reflect

FLOWS: dict[str, Flow] = {"react": React(), "plan": Plan(), "reflect": Reflect()}

"""Control flows by name; "best" is another scaffold around the loop (`palmette.scaffolds.flows.best`)."""

from __future__ import annotations

from palmette.scaffolds.flows.api import Flow
from palmette.scaffolds.flows.plan import Plan
from palmette.scaffolds.flows.react import React
from palmette.scaffolds.flows.reflect import Reflect

FLOWS: dict[str, Flow] = {"react": React(), "plan": Plan(), "reflect": Reflect()}

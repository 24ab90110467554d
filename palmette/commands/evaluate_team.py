"""``palmette eval`` of a team: agents that have learned to talk play their game, over a channel that may fail."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from palmette.errors import UserError
from palmette.run import RunDir

if TYPE_CHECKING:
    from palmette.marl.team import Trusting


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamPlan:
    """How a team is tested."""

    episodes: int
    channel: dict[str, Any]  # of a `Channel`: what happens to messages
    trusting: Trusting


def evaluate_team(run: RunDir, plan: TeamPlan, *, overrides: Sequence[str], as_json: bool) -> None:
    """Play with every seed's agents and print what they score; `overrides` change the game they were trained on.

    Raises `UserError` for a run without agents, or a game that they do not fit.
    """
    from palmette.marl.recipe import MarlRecipe
    from palmette.train.recipe import read_recipe

    networks, recipe = _networks(run), read_recipe(run.config_path, overrides)
    assert isinstance(recipe, MarlRecipe)
    rows = [_row(recipe, path, plan) for path in networks]
    if as_json:
        print(json.dumps({"run": str(run.path), "game": recipe.game, "method": recipe.method, "seeds": rows}, indent=1))
        return
    console = Console()
    for row in rows:
        trust = f", trust {' '.join(f'{each:.2f}' for each in row['trust'])}" if row["trust"] else ""
        console.print(
            f"seed {row['seed']}: {row['score_name']} {row['score']:.3f}, links {row['comm_rate']:.1%}{trust}",
            highlight=False,
        )
    middle = statistics.median(row["score"] for row in rows)
    console.print(
        f"{recipe.game}, {recipe.method}: median {rows[0]['score_name']} {middle:.3f} of {len(rows)} seeds, "
        f"{plan.episodes} episodes each",
        highlight=False,
    )


def _networks(run: RunDir) -> list[Path]:
    found = sorted(run.path.glob("models/seed_*/agents.safetensors"), key=lambda path: int(path.parent.name[5:]))
    if not found:
        raise UserError(f"{run.path} has no trained agents yet (it is {run.state}); wait for a seed, or resume it")
    return found


def _row(recipe: Any, path: Path, plan: TeamPlan) -> dict[str, Any]:
    from safetensors.torch import load_file

    from palmette.marl.channel import Channel
    from palmette.marl.team import Team

    seed = int(path.parent.name[5:])
    team = Team(recipe, load_file(path), seed=seed)
    tested = team.test(episodes=plan.episodes, channel=Channel(**plan.channel), trusting=plan.trusting)
    return {
        "seed": seed,
        "score_name": team.score_name,
        "score": tested.measured.score,
        "comm_rate": tested.measured.comm_rate,
        "messages": tested.measured.messages,
        "trust": [] if tested.trust_N is None else [round(each, 4) for each in tested.trust_N.tolist()],
    }

"""One greedy episode of a team, step by step: where everybody was, who told whom, and how sure the teller was.

Positions come from the state that games give to the learner. A game without a picture here is drawn as a ring.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from palmette.marl.collect import Collector, Seat
from palmette.marl.comm.api import Talk
from palmette.marl.envs.api import Frame
from palmette.marl.envs.names import open_game
from palmette.marl.recipe import MarlRecipe
from palmette.marl.training import Training

_COPIES = 32  # episodes played to find one that was won
Places = list[list[float]]  # (x, y) in 0..1, y upwards
_Placed = tuple[Places, Places]  # of the agents, and of everything else


def film(training: Training) -> dict[str, Any]:
    """Return one episode of what `training` has learned so far, the longest of the won ones, as plain values.

    Keys: ``game``, ``method``, ``agents`` (names), ``won`` (None in a game without winners) and ``steps``, each with
    ``places``, ``things`` (x, y) and ``links`` (sender, receiver, the gate's probability, or 1 without a gate).
    """
    recipe = training.recipe
    game = open_game(recipe.game, recipe.game_config, batch=_COPIES, seed=20_000 + training.seed)
    shots: list[tuple[Frame, Talk]] = []
    generator = torch.Generator().manual_seed(training.seed)
    played = Collector(game, ids=recipe.learn.ids).play(
        Seat(agents=training.learner.agents, generator=generator, open_all=training.open_all),
        watch=lambda frame, talk: shots.append((frame, talk)),
    )
    lengths_E = played.episodes.live_ET.sum(1)
    copy = int((lengths_E + game.spec.limit * played.won_E).argmax())
    place = _PLACES.get(recipe.game, _ring)
    return {
        "game": recipe.game,
        "method": recipe.method,
        "agents": _names(recipe, game.spec.agents),
        "won": bool(played.won_E[copy]) if game.spec.score == "won" else None,
        "steps": [_step(frame, talk, copy, recipe, place) for frame, talk in shots[: int(lengths_E[copy])]],
    }


def _step(
    frame: Frame, talk: Talk, copy: int, recipe: MarlRecipe, place: Callable[[list[float], MarlRecipe, int], _Placed]
) -> dict[str, Any]:
    links_NN = talk.links_MNN[copy]
    sure_NN = torch.ones_like(links_NN) if talk.selector_MNN is None else torch.sigmoid(talk.selector_MNN[copy])
    places, things = place(frame.state_BS[copy].tolist(), recipe, links_NN.shape[0])
    return {
        "places": _rounded(places),
        "things": _rounded(things),
        "links": [[i, j, round(float(sure_NN[i, j]), 3)] for i, j in links_NN.nonzero().tolist()],
    }


def _scout(state: list[float], recipe: MarlRecipe, agents: int) -> _Placed:
    scouts = recipe.scout.scouts
    half = 0.5 / recipe.scout.size
    watching = [[(index + 0.5) / scouts, 1.08] for index in range(scouts)]  # above the strip that it sees
    *hunters, target = _pairs(state)
    return watching + [[x + half, y + half] for x, y in hunters], [[target[0] + half, target[1] + half]]


def _hallway(state: list[float], recipe: MarlRecipe, agents: int) -> _Placed:
    return [[state[row], 1 - (row + 0.5) / agents] for row in range(agents)], []


def _particles(state: list[float], agents: int, things: int) -> _Placed:
    """The field has no walls: who has run away is drawn at the edge."""
    found = [[_within((x + 1.3) / 2.6), _within((y + 1.3) / 2.6)] for x, y in _pairs(state[: 2 * (agents + things)])]
    return found[:agents], found[agents:]


def _navigation(state: list[float], recipe: MarlRecipe, agents: int) -> _Placed:
    return _particles(state, agents, agents)


def _predators(state: list[float], recipe: MarlRecipe, agents: int) -> _Placed:
    return _particles(state, agents, recipe.predators.prey)


def _ring(state: list[float], recipe: MarlRecipe, agents: int) -> _Placed:
    turns = [2 * math.pi * index / agents for index in range(agents)]
    return [[0.5 + 0.4 * math.sin(turn), 0.5 + 0.4 * math.cos(turn)] for turn in turns], []


_PLACES = {"scout": _scout, "hallway": _hallway, "navigation": _navigation, "predators": _predators}


def _names(recipe: MarlRecipe, agents: int) -> list[str]:
    scouts = recipe.scout.scouts if recipe.game == "scout" else 0
    called = [f"s{index + 1}" for index in range(scouts)]
    return called + [f"h{index + 1}" if scouts else str(index + 1) for index in range(agents - scouts)]


def _within(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _pairs(values: list[float]) -> Places:
    return [[x, y] for x, y in zip(values[::2], values[1::2], strict=True)]


def _rounded(places: Places) -> Places:
    return [[round(x, 3), round(y, 3)] for x, y in places]

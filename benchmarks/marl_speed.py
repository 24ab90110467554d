"""Environment steps and training steps a CPU second, beside mpe2 and (where installed) JaxMARL.

    python benchmarks/marl_speed.py [--quick] [--json PATH]

Rates are per second of processor time of one thread, the median of several rounds with the lowest and the highest, so a
busy machine changes them less than wall time. One environment step is one step of one copy of a game, all its agents
acting; observations, rewards and state are made in every step on both sides. Actions are random and drawn beforehand.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palmette.errors import UserError
from palmette.marl.comm.api import Scene, Sizes
from palmette.marl.comm.names import open_method
from palmette.marl.envs.hallway import HallwayConfig
from palmette.marl.envs.names import open_game
from palmette.marl.envs.navigation import NavigationConfig
from palmette.marl.envs.predators import PredatorsConfig
from palmette.marl.envs.scout import ScoutConfig
from palmette.marl.envs.smax import SmaxConfig
from palmette.marl.recipe import MarlRecipe
from palmette.marl.training import Training

Row = dict[str, Any]


def main() -> None:
    """Measure, print a table, and write rows if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: seconds instead of minutes")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds, seconds = (3, 0.3) if options.quick else (7, 1.5)
    rows = stepping(rounds, seconds) + peers(rounds, seconds)
    compare(rows)
    rows += training(rounds if options.quick else 3, quick=options.quick) + fusion(rounds)
    show(rows)
    if options.json:
        machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 1}
        options.json.write_text(json.dumps({**machine, "quick": options.quick, "rows": rows}, indent=1) + "\n")


GAMES = {
    "navigation N=3": ("navigation", NavigationConfig(agents=3)),
    "navigation N=6": ("navigation", NavigationConfig(agents=6)),
    "predators 3v1": ("predators", PredatorsConfig()),
    "hallway [4,6,10]": ("hallway", HallwayConfig()),
    "scout 3x2": ("scout", ScoutConfig()),
    "smax 3m": ("smax", SmaxConfig(map="3m")),
}
PEERS = {
    "navigation N=3": ("simple_spread_v3", {"N": 3}),
    "navigation N=6": ("simple_spread_v3", {"N": 6}),
    "predators 3v1": ("simple_tag_v3", {}),
}


def stepping(rounds: int, seconds: float) -> list[Row]:
    """Return our games' rates at several numbers of copies."""
    rows: list[Row] = []
    for label, (name, config) in GAMES.items():
        for batch in (1, 32, 1024, 8192):
            try:
                game = open_game(name, config, batch=batch)
            except UserError as missing:  # jaxmarl
                print(missing)
                break
            frame = game.reset()
            choices = [_random_actions(frame.avail_BNA) for _ in range(8)]
            state = {"step": 0}

            def some(game: Any = game, choices: Any = choices, state: dict[str, int] = state) -> int:
                if state["step"] % game.spec.limit == 0:
                    game.reset()
                game.step(choices[state["step"] % 8])
                state["step"] += 1
                return game.batch

            some()  # what is compiled is compiled now
            rows.append({"what": "stepping", "game": label, "who": "palmette", "copies": batch})
            rows[-1] |= rate(some, rounds, seconds)
    return rows


def peers(rounds: int, seconds: float) -> list[Row]:
    """Return the rates of other packages, or that they are not installed."""
    rows: list[Row] = []
    for label, (name, options) in PEERS.items():
        row: Row = {"what": "stepping", "game": label, "who": "mpe2", "copies": 1}
        try:
            module = importlib.import_module(f"mpe2.{name}")
        except ImportError:
            rows.append({**row, "note": "not installed"})
            continue
        env = module.parallel_env(max_cycles=25, continuous_actions=False, **options)
        random = np.random.default_rng(0)
        choices = [{agent: int(random.integers(5)) for agent in env.possible_agents} for _ in range(64)]
        state = {"step": 0}

        def some(env: Any = env, choices: Any = choices, state: dict[str, int] = state) -> int:
            if state["step"] % 25 == 0:
                env.reset()
            env.step(choices[state["step"] % 64])
            state["step"] += 1
            return 1

        rows.append(row | rate(some, rounds, seconds))
    return rows + [_jaxmarl(game, rounds, seconds) for game in ("navigation N=3", "smax 3m")]


def _jaxmarl(game: str, rounds: int, seconds: float) -> Row:
    """Return JaxMARL's rate, steps scanned inside one compiled call, compilation not counted.

    The enemy plays its heuristic in SMAX on both sides; ours also reads state, availability and who won in each step.
    """
    row: Row = {"what": "stepping", "game": game, "who": "jaxmarl", "copies": 1024}
    try:
        jax, jaxmarl = importlib.import_module("jax"), importlib.import_module("jaxmarl")
    except ImportError:
        return {**row, "note": "not installed"}
    if game == "smax 3m":
        scenario = jaxmarl.environments.smax.map_name_to_scenario("3m")
        env = jaxmarl.make("HeuristicEnemySMAX", scenario=scenario)
    else:
        env = jaxmarl.make("MPE_simple_spread_v3")
    count = env.action_space(env.agents[0]).n
    keys = jax.random.split(jax.random.PRNGKey(0), 1024)
    _, state = jax.vmap(env.reset)(keys)

    def one(state: Any, key: Any) -> Any:
        each = jax.random.split(key, 1024)
        actions = {agent: jax.random.randint(key, (1024,), 0, count) for agent in env.agents}
        _, state, rewards, _, _ = jax.vmap(env.step)(each, state, actions)
        return state, rewards["__all__"] if "__all__" in rewards else rewards[env.agents[0]]

    scan = jax.jit(lambda state, keys: jax.lax.scan(one, state, keys))
    steps = jax.random.split(jax.random.PRNGKey(1), 25)
    jax.block_until_ready(scan(state, steps))

    def some() -> int:
        jax.block_until_ready(scan(state, steps))
        return 25 * 1024

    return row | rate(some, rounds, seconds)


def compare(rows: list[Row]) -> None:
    """Add to each of our rows how many times mpe2's rate it is."""
    theirs = {row["game"]: row["per_s"] for row in rows if row["who"] == "mpe2" and "per_s" in row}
    for row in rows:
        if row["who"] == "palmette" and row["game"] in theirs:
            row["times_mpe2"] = round(row["per_s"] / theirs[row["game"]], 1)


def training(rounds: int, *, quick: bool) -> list[Row]:
    """Return environment steps of whole trainings (playing and updating), vectorised and one environment at a time.

    All are this code with equal updates a step: ``one at a time`` is PyMARL's default loop, a game stepped alone. They
    take turns, round by round.
    """
    rows = []
    steps = 2560 if quick else 5120
    for method in ("none", "full", "t2mac_plus"):
        sessions = {parallel: _warm(method, parallel) for parallel in (128, 32, 1)}
        rates: dict[int, list[float]] = {parallel: [] for parallel in sessions}
        for _ in range(rounds):
            for parallel, session in sessions.items():
                rates[parallel].append(rate(lambda session=session: _some(session, steps), 1, 0.0)["per_s"])
        for parallel, found in rates.items():
            row: Row = {"what": "training, an update every 640 steps", "game": "scout 3x2", "who": method}
            row |= {"copies": parallel, "per_s": statistics.median(found), "low": min(found), "high": max(found)}
            rows.append(row | {"times_one": round(row["per_s"] / statistics.median(rates[1]), 1)})
    return rows


def _warm(method: str, parallel: int) -> Training:
    """Return a training with enough episodes to learn from."""
    learn = {"parallel": parallel, "update_every": 640}
    session = Training(MarlRecipe.model_validate({"method": method, "game": "scout", "learn": learn}), 0)
    while len(session.buffer) < 128:
        session.advance()
    return session


def _some(session: Training, steps: int) -> int:
    begun = session.env_steps
    while session.env_steps - begun < steps:
        session.advance()
    return session.env_steps - begun


def fusion(rounds: int) -> list[Row]:
    """Return milliseconds of a round of communication, forwards and backwards, against the number of agents."""
    rows = []
    for method in ("full", "t2mac", "t2mac_plus"):
        for agents in (4, 8, 16, 32, 64):
            sizes = Sizes(agents=agents, actions=8, hidden=64, state=16)
            comm = open_method(method, sizes)
            hidden_MNH = torch.randn(32, agents, 64)
            scene = Scene(
                avail_MNA=torch.ones(32, agents, 8, dtype=torch.bool),
                generator=torch.Generator(),
                open_all=True,
                learning=True,
            )

            def some(comm: Any = comm, hidden_MNH: torch.Tensor = hidden_MNH, scene: Scene = scene) -> int:
                comm(hidden_MNH, scene).q_MNA.sum().backward()
                return 1

            some()
            found = rate(some, rounds, 0.1)
            row = {"what": "a round for 32 rows, ms", "game": f"N={agents}", "who": method, "copies": 32}
            ms = {"per_s": found["per_s"], "low": found["high"], "high": found["low"]}
            rows.append(row | {name: 1e3 / value for name, value in ms.items()})
    return rows


def rate(some: Callable[[], int], rounds: int, seconds: float) -> Row:
    """Return how many units `some` does a CPU second: the median, lowest and highest of `rounds` rounds."""
    rates = []
    for _ in range(rounds):
        start_s, done = time.process_time(), 0
        while True:
            done += some()
            spent_s = time.process_time() - start_s
            if spent_s >= seconds:
                break
        rates.append(done / spent_s)
    return {"per_s": statistics.median(rates), "low": min(rates), "high": max(rates)}


def show(rows: list[Row]) -> None:
    """Print the rows as a table."""
    print(f"{'what':36}{'game':18}{'who':12}{'copies':>7}{'median':>12}{'lowest':>12}{'highest':>12}  x mpe2, x one")
    for row in rows:
        numbers = [" " + row["note"]] if "note" in row else [f"{row[name]:,.1f}" for name in ("per_s", "low", "high")]
        cells = "".join(f"{number:>12}" for number in numbers)
        times = row.get("times_mpe2", row.get("times_one", ""))
        print(f"{row['what']:36}{row['game']:18}{row['who']:12}{row['copies']:>7}{cells}  {times}")


def _random_actions(avail_BNA: torch.Tensor) -> torch.Tensor:
    return torch.multinomial(avail_BNA.flatten(0, 1).float(), 1).view(avail_BNA.shape[:2])


if __name__ == "__main__":
    main()

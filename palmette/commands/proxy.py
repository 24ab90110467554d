"""``palmette proxy``: stands before somebody's endpoint and keeps what agents say to it, as text."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from palmette.commands.interrupt import run_interruptibly
from palmette.errors import UserError
from palmette.gateway.proxy import Proxy, Recording
from palmette.rollout.outcomes import Outcome
from palmette.rollout.record import to_metadata
from palmette.rollout.run import Rollout
from palmette.run import RunDir
from palmette.trajectory.store import TreeStore
from palmette.trajectory.tree import Tree


def proxy(upstream: str, *, host: str, port: int, key: str, key_variable: str, name: str, runs: Path) -> None:
    """Pass requests on and record them in a new run until Ctrl-C.

    The endpoint's key is the environment's `key_variable`; if that is not set, what clients send is passed on. Raises
    `UserError` for a run that is there already and a port that is taken.
    """
    if not key and key_variable and os.environ.get(key_variable) and host not in ("127.0.0.1", "::1", "localhost"):
        raise UserError(
            f"--host {host}: anybody could spend ${key_variable} there; ask for a key of your own with --key"
        )
    secret = os.environ.get(key_variable, "") if key_variable else ""
    passing = Proxy(upstream, host=host, port=port, key=key, secret=secret)
    run = RunDir.create(runs / name, f'kind = "proxy"\nupstream = {json.dumps(upstream)}\n')
    log = (run.path / "recording.jsonl").open("a", encoding="utf-8")
    lines: dict[str, int] = {}

    def keep(recording: Recording) -> None:
        """Write what is new at once: it outlives this program whatever ends it."""
        said = recording.transcript.messages
        for message in said[lines.get(recording.name, 0) :]:
            log.write(json.dumps({"session": recording.name} | message, ensure_ascii=False) + "\n")
        lines[recording.name] = len(said)
        log.flush()

    passing.on_turn = keep
    try:
        run_interruptibly(_serve(passing, upstream, run), notice="")
    except KeyboardInterrupt:
        pass
    finally:
        log.close()
        _store(passing, run)


async def _serve(passing: Proxy, upstream: str, run: RunDir) -> None:
    await passing.start()
    try:
        url = f"http://{passing.host}:{passing.port}/v1"
        print(f"{upstream} answers at {url}; what is said is kept in {run.path}; stop with Ctrl-C")
        print(f"  one agent, one name: http://{passing.host}:{passing.port}/s/NAME/v1", flush=True)
        await asyncio.Event().wait()
    finally:
        await passing.close()


def _store(passing: Proxy, run: RunDir) -> None:
    """Write every recording as a rollout that is marked as not exact."""
    records: list[tuple[dict[str, Any], Tree]] = []
    for recording in passing.recordings.values():
        rollout = Rollout(
            task=recording.name, domain="recorded", group=0, sample=0, outcome=Outcome.CANCELLED, reward=None,
            tree=Tree(), turns=recording.turns, sampled_tokens=0, wall_s=0.0, attempt=1,
            conversation=recording.transcript.messages, detail="recorded as text: how it ended is not known",
        )  # fmt: skip
        records.append((to_metadata(rollout, stage="proxy", exact=False, tools=recording.tools), rollout.tree))
    TreeStore(run.path / "trees").extend(records)
    turns = sum(recording.turns for recording in passing.recordings.values())
    missed = f", {passing.missed} could not be read" if passing.missed else ""
    print(f"kept {turns} answers of {len(records)} sessions in {run.path}{missed}", file=sys.stderr)

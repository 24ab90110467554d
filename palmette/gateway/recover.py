"""Sessions as a journal tells them: same keys, same trees, same conversations, ready to go on."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from palmette.gateway.ask import Ask
from palmette.gateway.call import Turn
from palmette.gateway.records import Closed, Opened, Recorded, read
from palmette.gateway.session import Session
from palmette.gateway.shared import Shared
from palmette.trajectory.tree import ROOT


def recover(paths: Iterable[Path], shared: Shared) -> dict[str, Session]:
    """Return by its key every session that the files of a journal, oldest first, opened and did not close.

    Every turn that was acknowledged is there; one that was recorded and not told to anybody may be. What was asked
    before the crash and comes again is a fresh sample.
    """
    sessions: dict[str, Session] = {}
    closed: set[str] = set()
    for record in read(paths):
        match record:
            case Opened(forked_from=None):
                sessions[record.key] = Session(
                    record.sampling,
                    max_completion_tokens=record.cap,
                    shared=shared,
                    key=record.key,
                    label=record.label,
                )
            case Opened():
                forked = sessions[record.forked_from or ""].forked(record.sampling, key=record.key)
                sessions[record.key] = forked
            case Closed():
                closed.add(record.key)  # what was forked from it may still have to be read
            case Recorded():
                replay(sessions[record.key], record)
    return {key: session for key, session in sessions.items() if key not in closed}


def replay(session: Session, record: Recorded) -> Turn:
    """Record a turn in a session that has what went before it; return it."""
    onto = session.recorded[record.onto] if record.onto >= 0 else None
    prompt = array("i")
    messages, tools, after = record.messages, record.tools or (), ROOT
    if onto is not None:
        prompt.frombytes(session.tree.path_ids(onto.leaf).astype(np.int32).tobytes())
        messages, after = (*onto.messages, onto.answer, *messages), onto.leaf
        tools = onto.tools if record.tools is None else record.tools
    prompt.frombytes(record.ids)
    ask = Ask(messages=messages, tools=tools, prompt_ids=tuple(prompt) if record.raw else None)
    return session.replay(
        ask,
        prompt,
        after,
        record.completion(),
        record.answer,
        call_id=record.call,
        index=record.index,
        forced=record.forced,
    )

"""What a killed run had sampled and not yet stored, as its gateway's journal tells it: kept, never trained on."""

from __future__ import annotations

import json

from palmette.gateway.session import Session
from palmette.rollout.outcomes import Outcome
from palmette.rollout.run import Rollout


def interrupted(session: Session, number: int) -> Rollout:
    """Return the rollout of a session that was found again, as sample `number` of no group; its reward is not known.

    The session says what it is of (`palmette.rollout.attempt.label_of`).
    """
    facts = {"task": "unknown", "domain": "unknown", **json.loads(session.label or "{}")}
    return Rollout(
        **facts,
        group=0,
        sample=number,
        outcome=Outcome.CANCELLED,
        reward=None,
        tree=session.tree,
        turns=session.turns,
        sampled_tokens=session.sampled_tokens,
        wall_s=0.0,
        conversation=list(session.conversation),
        detail="the run was killed meanwhile",
        attempt=1,
    )

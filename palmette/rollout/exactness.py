"""Whether a tree holds, token for token, what an engine was given and what it sampled, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from palmette.engine.api import Completion
from palmette.trajectory.tree import Branch, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Exactness:
    """A tree beside an engine's own account. `exact` if every answered turn is there, and nothing that was not said."""

    turns: int  # that the session answered
    found: int  # calls that are in the tree: prompt, completion and log-probs, as a turn
    unanswered: int  # calls that are not: completed by the engine after the agent had gone
    foreign: int  # branches that no call accounts for
    tokens: int  # of prompts and completions compared, every call's whole

    @property
    def exact(self) -> bool:
        """Whether the tree can be trusted."""
        return self.found == self.turns and self.foreign == 0 and self.unanswered <= 1


def compare(tree: Tree, calls: Sequence[tuple[Sequence[int], Completion]], turns: int) -> Exactness:
    """Compare a tree with the calls of an engine (prompt ids and completion), of which `turns` were answered."""
    branches = tree.branches()
    found = [any(_holds(branch, prompt, completion) for branch in branches) for prompt, completion in calls]
    said = {(*prompt, *completion.token_ids) for prompt, completion in calls}
    return Exactness(
        turns=turns,
        found=sum(found),
        unanswered=len(calls) - sum(found),
        foreign=sum(tuple(branch.token_ids.tolist()) not in said for branch in branches),
        tokens=sum(len(prompt) + len(completion.token_ids) for prompt, completion in calls),
    )


def _holds(branch: Branch, prompt: Sequence[int], completion: Completion) -> bool:
    start, end = len(prompt), len(prompt) + len(completion.token_ids)
    return (
        (start, end) in branch.turns
        and branch.token_ids[:end].tolist() == [*prompt, *completion.token_ids]
        and np.array_equal(branch.logprob[start:end], np.array(completion.logprobs, np.float32))
    )

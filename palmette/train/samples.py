"""Samples: what one sequence of tokens says to the optimiser.

Every array of a sample is aligned to its tokens: entry t describes token t itself. Which logit predicts which token
is not known here; that shift lives in `palmette.train.forward` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from palmette.trajectory.convert import Shared, to_branches

if TYPE_CHECKING:
    from palmette.trajectory.tree import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sequence to train on: a branch of a trajectory tree, or a demonstration.

    Only tokens with `sampled_T` carry loss. `turns` are the (start, end) spans of the sampled turns; they cover
    exactly the sampled tokens. `logprob_T` is what the engine recorded (the behaviour policy), `old_logprob_T` the
    denominator of the ratio; both in nats at temperature 1 and 0 where a token was given. Raises `ValueError` when
    the arrays do not agree.
    """

    token_ids_T: np.ndarray
    sampled_T: np.ndarray
    turns: tuple[tuple[int, int], ...]
    logprob_T: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    old_logprob_T: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    advantage_T: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    teacher_logprob_T: np.ndarray | None = None
    reference_logprob_T: np.ndarray | None = None
    mismatch_T: np.ndarray | None = None  # log pi_train(theta_old) - log pi_behaviour of each sampled token
    route_TLK: np.ndarray | None = None  # experts chosen at each token, layers L by choices K; -1 where not recorded
    top_ids_TK: np.ndarray | None = None  # int32, likely tokens in the place of each sampled one
    top_teacher_TK: np.ndarray | None = None  # the teacher's log-probs of those
    distil_T: np.ndarray | None = None  # weight of what the teacher thinks of each sampled token
    leaf: int = 0  # node of the tree it was made of, 0 for none

    def __post_init__(self) -> None:
        """Fill absent arrays with zeros and check that all of them describe the same tokens."""
        length = len(self.token_ids_T)
        for name in ("logprob_T", "old_logprob_T", "advantage_T"):
            if len(getattr(self, name)) == 0:
                object.__setattr__(self, name, np.zeros(length, np.float32))
        aligned = (
            "sampled_T",
            "logprob_T",
            "old_logprob_T",
            "advantage_T",
            "teacher_logprob_T",
            "reference_logprob_T",
            "mismatch_T",
            "top_ids_TK",
            "top_teacher_TK",
            "distil_T",
            "route_TLK",
        )
        for name in aligned:
            array = getattr(self, name)
            if array is not None and len(array) != length:
                raise ValueError(f"{name} has {len(array)} entries for {length} tokens")
        covered_T = np.zeros(length, bool)
        for start, end in self.turns:
            covered_T[start:end] = True
        if not np.array_equal(covered_T, np.asarray(self.sampled_T, bool)):
            raise ValueError("the turns must cover exactly the sampled tokens")
        if length and self.sampled_T[0]:
            raise ValueError("the first token of a sequence cannot be sampled: nothing predicts it")

    @property
    def num_sampled(self) -> int:
        """Number of tokens that carry loss."""
        return int(self.sampled_T.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Units of a whole optimiser step; losses are divided by these, so micro-batches change nothing."""

    tokens: int  # sampled tokens
    turns: int
    samples: int

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Totals:
        """Count the units of `samples`."""
        kept = list(samples)
        return cls(tokens=sum(s.num_sampled for s in kept), turns=sum(len(s.turns) for s in kept), samples=len(kept))


def from_demonstration(token_ids: Sequence[int], sampled: Sequence[bool]) -> Sample:
    """Make a sample of a demonstration; every maximal run of sampled tokens is one turn."""
    sampled_T = np.asarray(sampled, bool)
    return Sample(token_ids_T=np.asarray(token_ids, np.int32), sampled_T=sampled_T, turns=_runs(sampled_T))


def from_tree(tree: Tree, *, shared: Shared = "once") -> list[Sample]:
    """Make samples of a rollout's tree, one of each branch that owns a sampled token.

    A sampled token that several branches share is trained on in the first of them alone ("once"), so that a rollout
    weighs the same however many branches it has, or in "each" of them (see `to_branches`). The arrays `advantage`,
    `teacher_logprob` and `route` are taken over where they were written.
    """
    found: list[Sample] = []
    for owned in to_branches(tree, shared=shared):
        branch, own_T = owned.branch, owned.own
        arrays = {"advantage_T": "advantage", "teacher_logprob_T": "teacher_logprob"}
        written = {key: branch.array(name) * own_T for key, name in arrays.items() if name in tree.names}
        if "route" in tree.names:
            written["route_TLK"] = branch.array("route", fill=-1)
        turns = tuple((start + int(own_T[start:end].argmax()), end) for start, end in branch.turns if own_T[end - 1])
        found.append(
            Sample(
                token_ids_T=branch.token_ids,
                sampled_T=own_T,
                turns=turns,
                logprob_T=branch.logprob,
                old_logprob_T=branch.logprob,
                leaf=branch.leaf,
                **written,
            )
        )
    return found


def to_tree(tree: Tree, sample: Sample) -> None:
    """Write the sample's `advantage` and `teacher_logprob` on the tree it was made of, from its first own token on."""
    start = int(sample.sampled_T.argmax())
    tree.write("advantage", sample.leaf, sample.advantage_T[start:].astype(np.float32))
    if sample.teacher_logprob_T is not None:
        tree.write("teacher_logprob", sample.leaf, sample.teacher_logprob_T[start:].astype(np.float32))


def _runs(mask_T: np.ndarray) -> tuple[tuple[int, int], ...]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask_T.astype(np.int8), [0]))))
    return tuple((int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True))

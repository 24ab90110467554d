"""The pairs (branch, token) that losses are written on: the same whether branches are computed apart or as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from palmette.train.samples import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The sampled tokens M of some samples, sample by sample in order, with what is known of each.

    Sizes count the pairs of the *whole* turn or sample, also where only some of them are here. Log-probs are natural
    logs at temperature 1.
    """

    sample_M: Tensor  # int64, number of the sample
    turn_M: Tensor  # int64, number of the turn among all turns of all samples
    sample_size_M: Tensor  # int64, pairs of its sample
    turn_size_M: Tensor  # int64, pairs of its turn
    sample_turns_M: Tensor  # int64, turns of its sample
    logprob_M: Tensor  # of the engine that sampled it (the behaviour policy)
    old_logprob_M: Tensor  # denominator of the ratio
    mismatch_M: Tensor  # log pi_train(theta_old) - log pi_behaviour, what gates look at; 0 where nobody measured it
    advantage_M: Tensor
    teacher_logprob_M: Tensor  # 0 where there is no teacher
    reference_logprob_M: Tensor  # 0 where there is no reference
    distil_M: Tensor  # weight of the teacher's distribution; 0 where there is none
    top_ids_MK: Tensor  # int64, tokens whose log-probs the loss asks for too; none unless all samples have some
    top_teacher_MK: Tensor  # the teacher's log-probs of those

    @classmethod
    def of(cls, samples: Sequence[Sample], device: torch.device | str = "cpu") -> Pairs:
        """Collect the pairs of `samples`."""
        sizes_S = np.array([sample.num_sampled for sample in samples], np.int64)
        turns_S = np.array([len(sample.turns) for sample in samples], np.int64)
        spans = np.array([end - start for sample in samples for start, end in sample.turns], np.int64)
        sample_M = np.repeat(np.arange(len(samples)), sizes_S)
        turn_M = np.repeat(np.arange(len(spans)), spans)

        def known(name: str) -> Tensor:
            rows = [_sampled(getattr(sample, name), sample) for sample in samples]
            return torch.from_numpy(np.concatenate([*rows, np.zeros(0, np.float32)])).to(device)

        def counted(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(device)

        return cls(
            sample_M=counted(sample_M),
            turn_M=counted(turn_M),
            sample_size_M=counted(sizes_S[sample_M]),
            turn_size_M=counted(spans[turn_M]),
            sample_turns_M=counted(turns_S[sample_M]),
            logprob_M=known("logprob_T"),
            old_logprob_M=known("old_logprob_T"),
            mismatch_M=known("mismatch_T"),
            advantage_M=known("advantage_T"),
            teacher_logprob_M=known("teacher_logprob_T"),
            reference_logprob_M=known("reference_logprob_T"),
            distil_M=known("distil_T"),
            top_ids_MK=counted(_tops("top_ids_TK", samples).astype(np.int64)),
            top_teacher_MK=counted(_tops("top_teacher_TK", samples).astype(np.float32)),
        )

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.sample_M)

    def take(self, chosen_M: Tensor) -> Self:
        """Return the pairs of these indices."""
        return type(self)(**{field.name: getattr(self, field.name)[chosen_M] for field in fields(self)})


def _sampled(values_T: np.ndarray | None, sample: Sample) -> np.ndarray:
    if values_T is None:
        return np.zeros(sample.num_sampled, np.float32)
    return np.asarray(values_T, np.float32)[np.asarray(sample.sampled_T, bool)]


def _tops(name: str, samples: Sequence[Sample]) -> np.ndarray:
    rows = [(getattr(sample, name), np.asarray(sample.sampled_T, bool)) for sample in samples]
    if not rows or any(values is None for values, _ in rows):
        return np.zeros((sum(sample.num_sampled for sample in samples), 0))
    return np.concatenate([values[sampled_T] for values, sampled_T in rows])

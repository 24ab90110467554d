"""One packed forward pass of a causal language model over slots: tokens in, float32 logits out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from palmette.engine.attention import NAME, Plan, Span
from palmette.engine.cache import Slots, round_up
from palmette.model.routing import Recorder, record


class Forward:
    """Runs a model over `slots`; its attention is ours from `take` to `restore`."""

    def __init__(self, model: Any, rows: int) -> None:
        self.model = model
        self.slots = Slots(rows)
        self.device = model.device
        self.recorder: Recorder | None = None
        self._was = model.config._attn_implementation

    def take(self) -> None:
        """Switch the model to attention over slots; ordinary passes still work (through SDPA)."""
        self.model.set_attn_implementation(NAME)

    def restore(self) -> None:
        """Give the model its own attention back."""
        self.model.set_attn_implementation(self._was)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record which experts the tokens of every pass are sent to, while entered. Raises `UserError` without any."""
        with record(self.model) as self.recorder:
            yield
        self.recorder = None

    def routes_NLK(self) -> np.ndarray | None:
        """Return the experts (int16) of each token of the last pass in L layers, K of them, if they are recorded."""
        return None if self.recorder is None else self.recorder.choices_NLK().cpu().numpy().astype(np.int16)

    def step(
        self,
        last_ids: Sequence[int],
        lengths: Sequence[int],
        fresh: Sequence[tuple[int, Sequence[int], int]],
    ) -> tuple[torch.Tensor, Plan]:
        """Feed one token to each of the rows 0..R-1 and whole spans to others; return logits (R + fresh, V).

        `lengths` are the tokens already in rows 0..R-1; `fresh` holds (row, ids, offset): the ids continue a row of
        `offset` tokens. Logits are of the last token of each.
        """
        ids, rows, positions = list(last_ids), list(range(len(last_ids))), list(lengths)
        spans, keep = [], list(range(len(last_ids)))
        for row, new_ids, offset in fresh:
            spans.append(Span(start=len(ids), end=len(ids) + len(new_ids), offset=offset, row=row))
            ids.extend(new_ids)
            rows.extend([row] * len(new_ids))
            positions.extend(range(offset, offset + len(new_ids)))
            keep.append(len(ids) - 1)
        self.slots.reserve(max(positions) + 1)
        plan = Plan(
            slots=self.slots,
            decoding=len(last_ids),
            spans=tuple(spans),
            rows_W=self._long(rows),
            positions_W=self._long(positions),
            key_len=round_up(max(lengths) + 1) if lengths else 0,
        )
        return self._run(ids, positions, plan, keep), plan

    def spans(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits of every token of sequences that stand alone, packed: (sum of lengths, V)."""
        ids, positions, spans = [], [], []
        for sequence in sequences:
            spans.append(Span(start=len(ids), end=len(ids) + len(sequence)))
            ids.extend(sequence)
            positions.extend(range(len(sequence)))
        none = self._long([])
        plan = Plan(slots=self.slots, decoding=0, spans=tuple(spans), rows_W=none, positions_W=none)
        return self._run(ids, positions, plan, None)

    def extend(self, row: int, ids: Sequence[int], offset: int) -> torch.Tensor:
        """Continue a row of `offset` tokens; return the logits of every new token, (len(ids), V)."""
        positions = list(range(offset, offset + len(ids)))
        self.slots.reserve(positions[-1] + 1)
        plan = Plan(
            slots=self.slots,
            decoding=0,
            spans=(Span(start=0, end=len(ids), offset=offset, row=row),),
            rows_W=self._long([row] * len(ids)),
            positions_W=self._long(positions),
        )
        return self._run(list(ids), positions, plan, None)

    def _run(self, ids: list[int], positions: list[int], plan: Plan, keep: list[int] | None) -> torch.Tensor:
        """`keep` lists the tokens whose logits are wanted, None means all."""
        every = keep is None or len(keep) == len(ids)
        logits = self.model(
            input_ids=self._long([ids]),
            position_ids=self._long([positions]),
            # A mask of four axes is taken as it is, which stops transformers from building one of N x N.
            attention_mask=torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=self.device),
            use_cache=False,
            logits_to_keep=0 if every else self._long(keep),
            plan=plan,
        ).logits[0]
        return logits.float()

    def _long(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

"""One run of tokens of a trajectory tree: all given, or all of one sampled turn."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

GIVEN = -1  # the `turn` and the `version` of tokens that nobody sampled


@dataclass(slots=True, kw_only=True)
class Node:
    """A compressed radix node, e.g. the 300 tokens of one tool output. Read it, but let only its tree change it.

    `start` is the depth of its first token (its position in every branch through it); `turn` numbers the sampled
    turns of the tree in the order of their commits. `arrays` holds what was written under a name, one row a token.
    """

    parent: int
    start: int
    turn: int  # GIVEN, or the turn that all of these tokens belong to
    token_ids: np.ndarray  # int32 _T
    logprob: np.ndarray  # float32 _T, 0 where given
    version: np.ndarray  # int32 _T, -1 where given
    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # name -> _T...
    children: list[int] = field(default_factory=list)  # in the order they were made

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def end(self) -> int:
        """Depth behind its last token: the length of the path from the root to here."""
        return self.start + len(self.token_ids)

    def head(self, length: int) -> Node:
        """Return a node of the first `length` tokens, without children."""
        return Node(
            parent=self.parent,
            start=self.start,
            turn=self.turn,
            token_ids=self.token_ids[:length],
            logprob=self.logprob[:length],
            version=self.version[:length],
            arrays={name: values[:length] for name, values in self.arrays.items()},
        )

    def drop_head(self, length: int, parent: int) -> None:
        """Keep all but the first `length` tokens, below `parent`."""
        self.parent = parent
        self.start += length
        self.token_ids = self.token_ids[length:]
        self.logprob = self.logprob[length:]
        self.version = self.version[length:]
        self.arrays = {name: values[length:] for name, values in self.arrays.items()}

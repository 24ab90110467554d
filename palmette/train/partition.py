"""Running the passes of a plan so that a tree of any size trains in the memory of one root-to-leaf path of its parts.

A part's keys and values stay where they are while the parts below it run (`palmette.model.relay`). Recursive
post-order: forward a part; for each part below: the same again, then its backward; then the part's own backward, which
takes up the gradients its keys and values got from below. No token is computed twice, and what is alive is a path.
With `recompute` a part with others below it is first run for its keys alone and again when its turn for the backward
pass comes: one more forward of such parts, and beyond keys and values only one part is alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from palmette.model.relay import Relay
from palmette.model.tree_attention import TreePass, check_pass, tree_attention
from palmette.train.forward import Answer, ask
from palmette.train.pack import Pass, Plan
from palmette.train.pairs import Pairs
from palmette.trajectory.trie import NONE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Event = Literal["keys", "forward", "backward", "train", "release"]
Each = Callable[[Pass, Answer], Tensor]
"""From a pass and its answer to the loss of that pass."""


def schedule(parents: Sequence[int], *, recompute: bool = False, gradients: bool = True) -> Iterator[tuple[Event, int]]:
    """Yield what to do with which pass, given each pass's parent or NONE; parents come before their children.

    "forward" and "backward" enclose the passes below; "train" is both at once; "keys" is a forward pass of which only
    keys and values are kept. Without `gradients` there are only "forward" and "release".
    """
    below: list[list[int]] = [[] for _ in parents]
    roots: list[int] = []
    for number, parent in enumerate(parents):
        (roots if parent == NONE else below[parent]).append(number)
    before: Event = "keys" if recompute and gradients else "forward"
    after: Event = "release" if not gradients else "train" if recompute else "backward"
    stack: list[tuple[Event, int]] = []
    stack.extend(("forward", number) for number in reversed(roots))
    while stack:
        event, number = stack.pop()
        if event != "forward":
            yield event, number
        elif below[number] or not gradients:
            yield before, number
            stack.append((after, number))
            stack.extend(("forward", child) for child in reversed(below[number]))
        else:
            yield "train", number


def backward(
    model: PreTrainedModel,
    plan: Plan,
    loss_of: Each,
    *,
    recompute: bool = False,
    entropy: bool = False,
    routers: bool = False,
) -> None:
    """Add the gradients of the sum of `loss_of` over all passes to the parameters of `model`."""
    runner = _Runner(model, plan, entropy=entropy, routers=routers)
    losses: dict[int, Tensor] = {}
    with runner.attention():
        for event, number in schedule(runner.parents, recompute=recompute):
            if event == "keys":
                with torch.no_grad():
                    runner.forward(number)
            if event in ("forward", "train"):
                losses[number] = loss_of(plan.passes[number], runner.forward(number))
            if event in ("backward", "train"):
                losses.pop(number).backward()
                runner.release(number)


@torch.no_grad()
def look(
    model: PreTrainedModel, plan: Plan, seen: Callable[[Pass, Answer], None], *, routers: bool = False, top: int = 0
) -> None:
    """Run all passes without gradients and show each answer to `seen`."""
    runner = _Runner(model, plan, entropy=False, routers=routers, top=top)
    with runner.attention():
        for event, number in schedule(runner.parents, gradients=False):
            if event == "forward":
                seen(plan.passes[number], runner.forward(number))
            else:
                runner.release(number)


class _Runner:
    """Forward passes of a plan, with the relays between its parts."""

    def __init__(self, model: PreTrainedModel, plan: Plan, *, entropy: bool, routers: bool, top: int = 0) -> None:
        self._model, self._plan = model, plan
        self._more: dict[str, Any] = {"entropy": entropy, "routers": routers, "top": top}
        self.parents = [asked.parent for asked in plan.passes]
        self._has_below = set(self.parents)
        self._relays: dict[int, Relay] = {}
        self._checked = False

    def attention(self) -> AbstractContextManager[None]:
        return tree_attention(self._model) if self._plan.layout is not None else nullcontext()

    def forward(self, number: int) -> Answer:
        asked = self._plan.passes[number]
        also_EK = _also(asked, self._plan.pairs)
        if asked.part is None:
            return ask(self._model, asked, also_EK=also_EK, **self._more)
        tree = self._tree_pass(number)
        answer = ask(self._model, asked, tree, also_EK=also_EK, **self._more)
        if not self._checked:
            check_pass(self._model, tree)
            self._checked = True
        return answer

    def release(self, number: int) -> None:
        self._relays.pop(number, None)

    def _tree_pass(self, number: int) -> TreePass:
        asked, layout = self._plan.passes[number], self._plan.layout
        part = asked.part
        assert part is not None
        assert layout is not None
        assert asked.end_N is not None
        assert asked.position_BN is not None
        if number in self._has_below:
            self._relays.setdefault(number, Relay())
        return TreePass(
            depth_N=asked.position_BN[0],
            end_N=asked.end_N,
            squares=part.squares,
            masked=part.masked,
            rectangles=part.rectangles,
            gateways=[(row, end, self._relays[q], left, right) for row, end, q, left, right in part.gateways],
            gateway_depths=[int(layout.depth_N[layout.parts[q].start + left]) for _, _, q, left, _ in part.gateways],
            relay=self._relays.get(number),
        )


def _also(asked: Pass, pairs: Pairs) -> Tensor | None:
    """Return the further targets of each edge: pairs on one edge have one past, and so the same."""
    if not pairs.top_ids_MK.shape[1]:
        return None
    also_EK = pairs.top_ids_MK.new_zeros(len(asked.source_E), pairs.top_ids_MK.shape[1])
    also_EK[asked.edge_M] = pairs.top_ids_MK[asked.pair_M]
    return also_EK

"""What the tree-training benchmark trains on: branches of made-up and recorded trees, and the bounds of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palmette.train.samples import Sample, from_demonstration, from_tree
from palmette.trajectory import trie
from palmette.trajectory.store import TreeStore

CLIP_LOW, CLIP_HIGH = 0.2, 0.28
Node = tuple[int, int, bool]  # parent or -1, tokens, whether the model sampled them


@dataclass(frozen=True, slots=False, kw_only=True, eq=False)
class Problem:
    """Samples (one a branch) and a loss over their sampled tokens: likelihood, or PPO's clip if `clipped`.

    The loss here is written on its own, plainly, so that it checks the project's.
    """

    name: str
    samples: tuple[Sample, ...]
    clipped: bool = False

    @cached_property
    def sequences(self) -> list[np.ndarray]:
        """Token ids of each branch (int64 _T)."""
        return [np.asarray(sample.token_ids_T, np.int64) for sample in self.samples]

    @cached_property
    def sampled(self) -> list[np.ndarray]:
        """Which tokens carry loss (bool _T a branch)."""
        return [np.asarray(sample.sampled_T, bool) for sample in self.samples]

    @cached_property
    def first(self) -> np.ndarray:
        """Number of pairs (branch, sampled token) before each branch, and of all."""
        return np.concatenate(([0], np.cumsum([int(mask.sum()) for mask in self.sampled])))

    @cached_property
    def shape(self) -> Shape:
        """Sizes that do not depend on the model."""
        tree = trie.build(self.sequences)
        token_M = np.concatenate([index[mask] for index, mask in zip(self.indices(tree), self.sampled, strict=True)])
        source_M = np.concatenate(
            [index[:-1][mask[1:]] for index, mask in zip(self.indices(tree), self.sampled, strict=True)]
        )
        lengths = np.array([len(sequence) for sequence in self.sequences], np.int64)
        return Shape(
            n_flat=tree.num_flat,
            n_tree=tree.num_unique,
            p_flat=int((lengths * (lengths + 1) // 2).sum()),
            p_tree=int((tree.depth_N + 1).sum()),
            head_flat=len(token_M),
            head_tree=len(np.unique(source_M)),
            branches=len(lengths),
        )

    @staticmethod
    def indices(tree: trie.Trie) -> list[np.ndarray]:
        """Return the unique token of every token of every branch."""
        return np.split(tree.index_T, tree.offset_B[1:-1])

    def loss(self, logprob_M: Tensor, first: int = 0) -> Tensor:
        """Return what the pairs from number `first` on add to the loss."""
        if not self.clipped:
            return -logprob_M.sum() / int(self.first[-1])
        pairs = slice(first, first + len(logprob_M))
        advantage_M, old_M = (t[pairs].to(logprob_M.dtype) for t in self._policy)
        ratio_M = (logprob_M - old_M).exp()
        clipped_M = ratio_M.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
        return -torch.minimum(ratio_M * advantage_M, clipped_M * advantage_M).sum() / int(self.first[-1])

    @cached_property
    def _policy(self) -> tuple[Tensor, Tensor]:
        pick = zip(self.samples, self.sampled, strict=True)
        rows = [(sample.advantage_T[mask], sample.old_logprob_T[mask]) for sample, mask in pick]
        return torch.from_numpy(np.concatenate([a for a, _ in rows])), torch.from_numpy(
            np.concatenate([b for _, b in rows])
        )

    def as_policy(self, logprobs: Sequence[np.ndarray], seed: int = 0) -> Problem:
        """Return the same with a random advantage a branch, of either sign, and old log-probs near `logprobs` (_T).

        No ratio lies where rounding would decide whether it is clipped: there the gradient jumps.
        """
        rng = np.random.default_rng(seed)
        samples = []
        for number, (sample, logprob_T) in enumerate(zip(self.samples, logprobs, strict=True)):
            mask = np.asarray(sample.sampled_T, bool)
            advantage = (1 if number % 2 else -1) * rng.uniform(0.2, 2)
            log_ratio_T = rng.normal(0, 0.3, len(mask))
            for edge in np.log([1 - CLIP_LOW, 1 + CLIP_HIGH]):
                log_ratio_T[np.abs(log_ratio_T - edge) < 0.1] = edge - 0.1
            old_T = np.where(mask, logprob_T - log_ratio_T, 0).astype(np.float32)
            samples.append(
                replace(
                    sample,
                    advantage_T=np.where(mask, advantage, 0).astype(np.float32),
                    logprob_T=old_T,
                    old_logprob_T=old_T,
                )
            )
        return replace(self, name=f"{self.name}, PPO", samples=tuple(samples), clipped=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Tokens N, attention pairs P and rows of the output head, flat and as a tree."""

    n_flat: int
    n_tree: int
    p_flat: int
    p_tree: int
    head_flat: int
    head_tree: int
    branches: int

    @property
    def por(self) -> float:
        """Prefix overlap ratio."""
        return 1 - self.n_tree / self.n_flat

    @property
    def token_bound(self) -> float:
        """Flat tokens over unique ones."""
        return self.n_flat / self.n_tree

    def flops(self, config: Any) -> dict[str, tuple[float, float]]:
        """Return the forward FLOPs (flat, tree) of the matrices of the body, of attention, and of the head."""
        attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
        head = 2 * config.hidden_size * config.vocab_size
        body = 2 * body_parameters(config)
        return {
            "body": (body * self.n_flat, body * self.n_tree),
            "attention": (attention * self.p_flat, attention * self.p_tree),
            "head": (head * self.head_flat, head * self.head_tree),
        }

    def flop_bound(self, config: Any) -> float:
        """Flat FLOPs over those of the tree; the backward pass doubles both sides alike."""
        terms = self.flops(config).values()
        return sum(flat for flat, _ in terms) / sum(tree for _, tree in terms)

    def attention_share(self, config: Any) -> float:
        """Share of the flat FLOPs that is attention."""
        terms = self.flops(config)
        return terms["attention"][0] / sum(flat for flat, _ in terms.values())


def body_parameters(config: Any) -> int:
    """Return the matrix elements a token meets in the layers of a Qwen3 or Qwen3-MoE model."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    layer = config.hidden_size * config.head_dim * (2 * heads + 2 * kv_heads)
    if hasattr(config, "num_experts"):
        layer += config.hidden_size * config.num_experts
        layer += 3 * config.num_experts_per_tok * config.hidden_size * config.moe_intermediate_size
    else:
        layer += 3 * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * layer


def from_nodes(name: str, nodes: Sequence[Node], vocab: int, seed: int = 0) -> Problem:
    """Make every root-to-leaf path of `nodes` a branch, of random tokens that differ where nodes branch."""
    rng = np.random.default_rng(seed)
    tokens, siblings = [], defaultdict(int)
    for parent, length, _ in nodes:
        ids = rng.integers(0, vocab, length)
        ids[0] = siblings[parent]  # children of one node never begin alike
        siblings[parent] += 1
        tokens.append(ids)
    samples = []
    for leaf in sorted(set(range(len(nodes))) - {parent for parent, _, _ in nodes}):
        path = [leaf]
        while nodes[path[-1]][0] >= 0:
            path.append(nodes[path[-1]][0])
        path.reverse()
        mask = np.concatenate([np.full(nodes[k][1], nodes[k][2]) for k in path])
        mask[0] = False
        samples.append(from_demonstration(np.concatenate([tokens[k] for k in path]).tolist(), mask.tolist()))
    return Problem(name=name, samples=tuple(samples))


def star(prefix: int, branches: int, suffix: int) -> list[Node]:
    """One prompt and its answers."""
    return [(-1, prefix, False), *((0, suffix, True) for _ in range(branches))]


def think_chain(turns: int, kept: int, dropped: int) -> list[Node]:
    """Turns whose thinking is seen once and then dropped from the context: a trunk with a side branch at each turn."""
    nodes: list[Node] = []
    above = -1
    for _ in range(turns):
        nodes += [(above, kept // 2, False), (len(nodes), kept - kept // 2, True)]
        above = len(nodes) - 1
        nodes.append((above, dropped, True))
    return nodes


def agent(prompt: int, depth: int, turn: int, most: int, seed: int) -> list[Node]:
    """A random tree of `depth` turns, each a tool's output and an answer of about `turn` tokens, branching 1 to 3."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = [(-1, prompt, False)]
    front = [0]
    for _ in range(depth):
        front = [node for node in front for _ in range(int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])))][:most]
        below = []
        for node in front:
            given, sampled = (int(rng.integers(turn // 2, turn * 3 // 2)) for _ in range(2))
            nodes += [(node, given, False), (len(nodes), sampled, True)]
            below.append(len(nodes) - 1)
        front = below
    return nodes


def late(prompt: int, turns: int, turn: int, branches: int, tail: int) -> list[Node]:
    """Rollouts that agree on a prompt and several turns, fork into a few, and fork again near their ends."""
    nodes: list[Node] = [(-1, prompt, False)]
    above = 0
    for _ in range(turns):
        nodes += [(above, turn // 2, False), (len(nodes), turn - turn // 2, True)]
        above = len(nodes) - 1
    for _ in range(branches):
        nodes.append((above, tail, True))
        fork = len(nodes) - 1
        nodes += [(fork, tail, True) for _ in range(branches)]
    return nodes


def apart(lengths: Sequence[int]) -> list[Node]:
    """Sequences with nothing in common."""
    nodes: list[Node] = []
    for length in lengths:
        nodes += [(-1, length // 2, False), (len(nodes), length - length // 2, True)]
    return nodes


def made_up(vocab: int, *, quick: bool) -> list[Problem]:
    """Return the made-up workloads."""
    if quick:
        shapes = {
            "star 192+8x48": star(192, 8, 48),
            "think chain 6x(32+48)": think_chain(6, 32, 48),
            "agent tree": agent(96, 4, 24, 8, 2),
            "no sharing": apart([200, 260, 320]),
        }
    else:
        stars = {f"star {p}+{g}x128": star(p, g, 128) for p in (256, 1024) for g in (4, 8, 16)}
        shapes = stars | {
            "think chain 16x(32+48)": think_chain(16, 32, 48),
            "think chain 24x(48+64)": think_chain(24, 48, 64),
            "agent tree depth 4": agent(256, 4, 48, 16, 0),
            "agent tree depth 6": agent(256, 6, 48, 16, 5),
            "agent tree depth 8": agent(192, 8, 48, 20, 5),
            "bound 6.5": late(384, 4, 64, 4, 51),
            "bound 10": star(1024, 16, 32),
            "low sharing": star(96, 8, 416),
            "no sharing": apart([300, 360, 420, 480, 512, 560, 620, 700]),
        }
    return [from_nodes(name, nodes, vocab) for name, nodes in shapes.items()]


def recorded(run: Path, count: int, vocab: int, most: int) -> list[Problem]:
    """Return `count` forests that a run directory holds, of up to `most` flat tokens and at least a quarter of it.

    A forest is what the rollouts of one task in one step of reinforcement learning left behind. They are taken at even
    distances in the order of their POR, the median alone for one.
    """
    groups: dict[tuple[Any, ...], list[Sample]] = defaultdict(list)
    for metadata, tree in TreeStore(run / "trees"):
        if str(metadata.get("stage", "")).startswith("rl/"):
            groups[metadata["stage"], metadata["step"], metadata["task"]] += from_tree(tree)
    found = [
        Problem(name=f"recorded {stage} {step} {task}", samples=tuple(samples))
        for (stage, step, task), samples in groups.items()
        if most / 4 <= sum(len(sample.token_ids_T) for sample in samples) <= most
    ]
    found.sort(key=lambda problem: problem.shape.por)
    chosen = [found[round((number + 0.5) / count * len(found) - 0.5)] for number in range(count)] if found else []
    if any(int(ids.max()) >= vocab for problem in chosen for ids in problem.sequences):
        raise SystemExit(f"the trees of {run} need a vocabulary of more than {vocab} tokens")
    return chosen

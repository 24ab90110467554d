"""The peers of the tree-training benchmark, each at its best on the CPU and fed as its own trainer feeds it.

All compute the output head for supervised positions alone, but for DTA, whose engine computes it for all.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from tree_training_methods import Method, attention, body_of, learn, logprobs
from tree_training_workloads import Problem

from palmette.trajectory import trie


def peers(dta: Path | None) -> list[Method]:
    """Return the peers; `dta` is a checkout of Whisper-6/DynamicTreeAttn."""
    return [
        Method(name="dense mask", step=dense_mask, find=lambda problem: _dense_inputs(problem, torch.float32)),
        Method(
            name="PrefixGrouper",
            step=prefix_grouper,
            refuses=lambda problem: "no shared prefix" if _prefixes(problem) is None else "",
            missing="" if importlib.util.find_spec("prefix_grouper") else "pip install prefix_grouper==0.0.1.post1",
        ),
        Method(
            name="TRL packing, SDPA",
            step=trl_packing,
            find=_trl_row,
            missing="" if importlib.util.find_spec("trl") else "pip install --no-deps trl==1.16.0",
        ),
        Method(
            name="DTA",
            step=lambda model, problem: dynamic_tree(model, problem, dta),
            missing="" if dta else "--dta PATH of a checkout of github.com/Whisper-6/DynamicTreeAttn",
        ),
    ]


def dense_mask(model: PreTrainedModel, problem: Problem) -> None:
    """Unique tokens in depth-first order under one N x N mask, made once (what AReaL's tree attention computes)."""
    merged, places, mask_NN = _dense_inputs(problem, model.dtype)
    with attention(model, "bench_dense"):
        learn(model, problem, merged.token_ids_N, merged.depth_N, places, mask_NN=mask_NN)


def _dense_inputs(problem: Problem, dtype: torch.dtype) -> tuple[trie.Trie, list[np.ndarray], Tensor]:
    merged = trie.build(problem.sequences)
    places = problem.indices(merged)
    end_N = np.zeros(merged.num_unique, np.int64)  # unique tokens are numbered depth first
    for place_T in places:
        end_N[place_T] = np.maximum(end_N[place_T], place_T[-1] + 1)
    row_N = torch.arange(merged.num_unique)
    seen_NN = (row_N.unsqueeze(1) >= row_N) & (row_N.unsqueeze(1) < torch.from_numpy(end_N))
    return merged, places, torch.zeros(seen_NN.shape, dtype=dtype).masked_fill_(~seen_NN, float("-inf"))


def prefix_grouper(model: PreTrainedModel, problem: Problem) -> None:
    """PrefixGrouper: one forward pass a group of branches that begin alike; only what all of them share is shared.

    Suffixes are padded on the right, where the causal mask hides the padding, so that one mask serves all rows.
    """
    grouper_class = importlib.import_module("prefix_grouper").PrefixGrouper
    for first, last, prefix in _prefixes(problem) or []:
        sequences = problem.sequences[first:last]
        lengths = [len(tokens_T) - prefix for tokens_T in sequences]
        grouper = grouper_class([[prefix, *lengths]])
        starts = prefix + np.cumsum(lengths) - lengths
        own = [np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        places = [np.concatenate([np.arange(prefix), tail]) for tail in own]
        tokens_N = np.concatenate([sequences[0][:prefix], *(tokens_T[prefix:] for tokens_T in sequences)])
        depth_N = np.concatenate([np.arange(prefix), *(np.arange(prefix, prefix + length) for length in lengths)])
        mask = _lower_right(max(lengths), prefix + max(lengths), model.dtype)
        with attention(model, "bench_prefix"):
            learn(model, problem, tokens_N, depth_N, places, first=first, grouper=grouper, mask=mask)


def _prefixes(problem: Problem) -> list[tuple[int, int, int]] | None:
    """Return (first branch, last, tokens all of them share) of neighbours that begin alike; None if none are shared."""
    groups: list[tuple[int, int, int]] = []
    sequences = problem.sequences
    for number, tokens_T in enumerate(sequences):
        if groups and sequences[groups[-1][0]][0] == tokens_T[0]:
            first, _, prefix = groups[-1]
            prefix = min(prefix, len(tokens_T) - 1)
            differs = sequences[first][:prefix] != tokens_T[:prefix]
            groups[-1] = (first, number + 1, int(differs.argmax()) if differs.any() else prefix)
        else:
            groups.append((number, number + 1, len(tokens_T) - 1))
    return groups if any(last - first > 1 for first, last, _ in groups) else None


def trl_packing(model: PreTrainedModel, problem: Problem) -> None:
    """TRL's own tree packing and attention function, with SDPA a segment in place of its FlashAttention-3 kernel."""
    module = _trl()
    row = _trl_row(problem)
    kernel = _Varlen()
    module._flash_attn = lambda: kernel
    place_R, edge_M = torch.unique(row["token_index"], return_inverse=True)
    ends_q, ends_k = row["tree_cu_seqlens_q"].tolist(), row["tree_cu_seqlens_k"].tolist()
    longest = row["tree_max_seqlens"].tolist()
    named = {"tree_kv_index": row["tree_kv_index"], "tree_cu_seqlens_q": ends_q, "tree_cu_seqlens_k": ends_k}
    named |= {"tree_max_seqlen_q": longest[0], "tree_max_seqlen_k": longest[1]}
    with attention(model, "bench_trl"):
        inputs = {"input_ids": row["input_ids"][None], "position_ids": row["position_ids"][None]}
        hidden_NH = body_of(model)(**inputs, use_cache=False, **named).last_hidden_state[0]
        logprob_R = logprobs(model, hidden_NH, place_R, row["shift_labels"][place_R])
        problem.loss(logprob_R[edge_M]).backward()


def _trl_row(problem: Problem) -> dict[str, Tensor]:
    row = _trl().TreeRow()
    for tokens_T, sample in zip(problem.sequences, problem.samples, strict=True):
        row.add(
            {
                "input_ids": torch.from_numpy(tokens_T),
                "completion_mask": torch.from_numpy(np.asarray(sample.sampled_T, np.int64)),
                "old_log_probs": torch.from_numpy(sample.old_logprob_T),
                "advantage": 0.0,
                "group_id": 0,
            }
        )
    return row.pack()


@cache
def _trl() -> Any:
    """Load the one file of TRL that matters, without the trainers beside it and all that they import."""
    found = importlib.util.find_spec("trl")
    assert found is not None
    assert found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / "experimental" / "async_grpo" / "packing.py"
    spec = importlib.util.spec_from_file_location("trl_packing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    AttentionInterface.register("bench_trl", module.tree_attention)
    AttentionMaskInterface.register("bench_trl", lambda *_args, **_named: None)
    return module


class _Varlen:
    """Variable-length attention, causal from the lower right, as one SDPA call a segment; layers share its masks."""

    def __init__(self) -> None:
        self._mask = cache(_lower_right)

    def flash_attn_varlen_func(
        self, query: Tensor, key: Tensor, value: Tensor, ends_q: list[int], ends_k: list[int], *_longest: int,
        softmax_scale: float, **_same: Any,
    ) -> Tensor:  # fmt: skip
        """Attend over (tokens, heads, size); returns the same shape as `query`."""
        query, key, value = (t.transpose(0, 1).unsqueeze(0) for t in (query, key, value))
        out = []
        for number, (start, end) in enumerate(pairwise(ends_q)):
            columns = slice(ends_k[number], ends_k[number + 1])
            rows, width = end - start, columns.stop - columns.start
            mask = self._mask(rows, width, query.dtype) if 1 < rows < width else None
            block = (query[:, :, start:end], key[:, :, columns], value[:, :, columns])
            causal = {"is_causal": rows == width, "scale": softmax_scale, "enable_gqa": True}
            out.append(F.scaled_dot_product_attention(*block, attn_mask=mask, **causal))
        return torch.cat(out, 2)[0].transpose(0, 1)


def dynamic_tree(model: PreTrainedModel, problem: Problem, checkout: Path | None) -> None:
    """AReaL-DTA: push and pop along the tree with a key-value cache, in its own backward order, largest block."""
    assert checkout is not None
    engine_module, trie_module = _dynamic_tree(checkout)
    pairs = [torch.from_numpy(np.flatnonzero(mask[1:])) for mask in problem.sampled]
    attached = [{"branch": number} for number in range(len(pairs))]
    tree = trie_module.TokenTrie([torch.from_numpy(tokens_T) for tokens_T in problem.sequences], attached)
    tree.backward_permute()

    def loss_of(logprob_T: Tensor, _entropy: Tensor, attachment: dict[str, int]) -> Tensor:
        branch = attachment["branch"]
        return problem.loss(logprob_T[pairs[branch]], int(problem.first[branch]))

    longest = max(len(tokens_T) for tokens_T in problem.sequences)
    with attention(model, "sdpa"):
        engine = engine_module.TreeTrainingEngine(model.config, "cpu", model.dtype, longest + 1)
        engine.backward(model, tree, loss_of, block_size=longest + 1)


@cache
def _dynamic_tree(checkout: Path) -> tuple[Any, Any]:
    """Import the engine; its log-prob function wants CUDA platforms and computes entropies, so it gets a plain one."""
    stub: Any = type(sys)("vocab_parallel")

    def both(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        rows_TV = logits[0, : labels.shape[1]].float()
        picked_T = -F.cross_entropy(rows_TV, labels[0], reduction="none")
        return picked_T.unsqueeze(0), logits[..., 0].float()  # no loss looks at entropies, but they need a gradient

    stub.gather_logprobs_entropy = both
    stub.gather_logprobs = lambda logits, labels: both(logits, labels)[0]
    sys.modules["vocab_parallel"] = stub
    sys.path.insert(0, str(checkout))
    try:
        return importlib.import_module("tree_training_engine"), importlib.import_module("token_trie")
    finally:
        sys.path.remove(str(checkout))


def _lower_right(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Return the additive causal mask whose last row sees every column."""
    hidden = torch.ones(rows, columns, dtype=torch.bool).triu_(columns - rows + 1)
    return torch.zeros(rows, columns, dtype=dtype).masked_fill_(hidden, float("-inf"))


def _attend_dense(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Any,
    *,
    mask_NN: Tensor,
    scaling: float,
    **_rest: Any,
) -> tuple[Tensor, None]:
    named = {"attn_mask": mask_NN, "scale": scaling, "enable_gqa": True}
    return F.scaled_dot_product_attention(query, key, value, **named).transpose(1, 2), None


def _attend_prefix(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, *, grouper: Any, mask: Tensor, scaling: float,
    **_rest: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    def attend(q: Tensor, k: Tensor, v: Tensor, _padding: Tensor) -> Tensor:
        square = q.shape[2] == k.shape[2]
        named = {"is_causal": square, "scale": scaling, "enable_gqa": True}
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if square else mask, **named).transpose(1, 2)

    return grouper.forward(attend, query, key, value), None


for _name, _function in (("bench_dense", _attend_dense), ("bench_prefix", _attend_prefix)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, lambda *_args, **_named: None)

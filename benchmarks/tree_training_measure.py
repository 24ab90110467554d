"""Measuring: methods interleaved in one process, gradients against float64, peak memory in a fork of its own."""

from __future__ import annotations

import copy
import ctypes
import gc
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config, Qwen3MoeConfig
from tree_training_methods import Method, one_by_one, timed
from tree_training_workloads import Problem

_THRESHOLD, _TRIM = -3, -1  # names of mallopt's options
_CLEARLY = 1.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method on one workload. Times are medians over the repeats."""

    workload: str
    method: str
    model: str
    dtype: str
    threads: int
    n_flat: int
    n_tree: int
    por: float
    p_flat: int
    p_tree: int
    attention_share: float
    token_bound: float
    flop_bound: float
    seconds: float | None = None  # of CPU with one thread, of wall with more
    seconds_min: float | None = None
    wall_seconds: float | None = None
    speedup: float | None = None
    fraction: float | None = None
    grad_error: float | None = None
    peak_mb: float | None = None  # beyond weights and gradients
    layout_ms: float | None = None  # part of `seconds`
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON."""
        return asdict(self)


def dense_model(vocab: int, dtype: torch.dtype, *, small: bool) -> PreTrainedModel:
    """Return a Qwen3 model with random weights of 9 million parameters, or of 3 if `small`."""
    width, layers = (256, 3) if small else (384, 4)
    config = Qwen3Config(
        **_attention_sizes(vocab, width, layers), intermediate_size=3 * width, tie_word_embeddings=True
    )
    return _built(config, dtype)


def expert_model(vocab: int, dtype: torch.dtype) -> PreTrainedModel:
    """Return a Qwen3-MoE model with random weights, 8 experts of which a token meets 2."""
    experts: dict[str, Any] = {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 384,
        "norm_topk_prob": True,
    }
    config = Qwen3MoeConfig(**_attention_sizes(vocab, 256, 4), **experts, tie_word_embeddings=True)
    model = _built(config, dtype)
    model.set_experts_implementation("grouped_mm")
    return model


def gradient(model: PreTrainedModel, run: Callable[[], None]) -> Tensor:
    """Return all parameters' gradients after `run`, as one float64 vector."""
    model.zero_grad(set_to_none=True)
    run()
    found = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return torch.cat(found)


def reference(model: PreTrainedModel, problem: Problem) -> Tensor:
    """Return the gradient of training every branch apart, computed in float64 from the very same weights."""
    wide = copy.deepcopy(model).double()
    if hasattr(model.config, "num_experts"):
        wide.set_experts_implementation("eager")  # there is no grouped float64 product
    return gradient(wide, lambda: one_by_one(wide, problem))


def error(found: Tensor, wanted: Tensor) -> float:
    """Return the relative L2 distance."""
    return float((found - wanted).norm() / wanted.norm())


def measure(
    model: PreTrainedModel, label: str, problem: Problem, flats: Sequence[Method], methods: Sequence[Method],
    repeats: int,
) -> list[Row]:  # fmt: skip
    """Run all methods in turn, again and again; the first round warms up and yields the gradients' errors.

    A way of flat training that is clearly slower than another after two measured rounds is not run again.
    """
    here = [method for method in methods if not method.missing and not method.refuses(problem)]
    running = [*flats, *here]
    wanted = reference(model, problem)
    errors = {m.name: error(gradient(model, lambda m=m: m.step(model, problem)), wanted) for m in running}
    times: dict[str, list[tuple[float, float]]] = {method.name: [] for method in running}
    clock = int(torch.get_num_threads() > 1)
    for round_ in range(repeats):
        if round_ == 2:
            least = {method.name: min(pair[clock] for pair in times[method.name]) for method in flats}
            slow = {name for name, seconds in least.items() if seconds > _CLEARLY * min(least.values())}
            flats = [method for method in flats if method.name not in slow]
            running = [*flats, *here]
        for method in running:
            model.zero_grad(set_to_none=True)
            gc.collect()
            times[method.name].append(timed(lambda method=method: method.step(model, problem)))
    median = {name: statistics.median(pair[clock] for pair in pairs) for name, pairs in times.items()}
    best = min(flats, key=lambda method: median[method.name])
    facts = _facts(model, label, problem)

    def row(method: Method, name: str, note: str = "") -> Row:
        pairs, speedup = times[method.name], median[best.name] / median[method.name]
        return Row(
            **facts,
            method=name,
            seconds=median[method.name],
            seconds_min=min(pair[clock] for pair in pairs),
            wall_seconds=statistics.median(pair[1] for pair in pairs),
            speedup=speedup,
            fraction=speedup / facts["flop_bound"],
            grad_error=errors[method.name],
            peak_mb=peak_mb(model, lambda: method.step(model, problem)),
            layout_ms=_finding_ms(method, problem, clock),
            note=note,
        )

    others = ", ".join(f"{n.removeprefix('flat, ')} {s:.2f} s" for n, s in median.items() if n.startswith("flat, "))
    rows = [row(best, "flat", others), *(row(method, method.name) for method in here)]
    for method in methods:
        if why := f"not installed ({method.missing})" if method.missing else method.refuses(problem):
            rows.append(Row(**facts, method=method.name, note=why))
    return rows


def peak_mb(model: PreTrainedModel, run: Callable[[], None]) -> float | None:
    """Return the highest memory of `run` beyond what was there, gradients included in what was, in MB; None if unknown.

    Measured in a forked child in which every tensor is its own mapping, so that what is freed is given back.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    model.zero_grad(set_to_none=True)
    gc.collect()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write_end, str(_peak_here(model, run)).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    with open(read_end, "rb") as pipe:
        answer = pipe.read()
    return float(answer) if answer else None


def _finding_ms(method: Method, problem: Problem, clock: int) -> float | None:
    if method.find is None:
        return None
    find = partial(method.find, problem)
    return 1e3 * min(timed(find)[clock] for _ in range(3))


def _peak_here(model: PreTrainedModel, run: Callable[[], None]) -> float:
    torch.set_num_threads(1)  # the parent's workers do not exist here
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    libc.mallopt(_THRESHOLD, 65536)
    libc.mallopt(_TRIM, 65536)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)  # ones, not zeros: the pages must be there
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark
    before = _status_mb("VmRSS")
    run()
    return _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"the kernel does not tell {field}")


def _attention_sizes(vocab: int, width: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 128,
        "head_dim": 64,
        "max_position_embeddings": 8192,
    }


def _built(config: Any, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype).eval()


def _facts(model: PreTrainedModel, label: str, problem: Problem) -> dict[str, Any]:
    shape = problem.shape
    return {
        "workload": problem.name,
        "model": label,
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "n_flat": shape.n_flat,
        "n_tree": shape.n_tree,
        "por": shape.por,
        "p_flat": shape.p_flat,
        "p_tree": shape.p_tree,
        "attention_share": shape.attention_share(model.config),
        "token_bound": shape.token_bound,
        "flop_bound": shape.flop_bound(model.config),
    }

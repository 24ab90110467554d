"""The arms of the tree-training benchmark beside its table: memory, policy gradients, the POR sweep, the profile."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from tree_training_measure import Row, error, gradient, measure, peak_mb, reference
from tree_training_methods import Method, flat_methods, layout, palmette, timed
from tree_training_workloads import Problem, from_nodes, star

from palmette.train.score import score_samples
from palmette.trajectory.trie import NONE


def memory(model: PreTrainedModel, problem: Problem, repeats: int) -> list[dict[str, Any]]:
    """Compare this project in parts of 25 % and 50 % of the tree, with and without recompute, with it in one.

    `path_tokens` are the tokens of the fullest root-to-leaf path of parts, `path_mb` what they take at the rate of
    the whole tree: the memory that nothing which computes each token once can do without.
    """
    tokens = problem.shape.n_tree
    arms = {"whole": (palmette(), tokens)}
    for share in (50, 25):
        for again in (False, True):
            name = f"{share} %" + (", recompute" if again else "")
            budget = -(-tokens * share // 100)
            arms[name] = (palmette(budget, recompute=again), budget)
    wanted = reference(model, problem)
    errors = {
        name: error(gradient(model, lambda m=method: m.step(model, problem)), wanted)
        for name, (method, _) in arms.items()
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    clock = int(torch.get_num_threads() > 1)
    for _ in range(repeats):
        for name, (method, _) in arms.items():
            model.zero_grad(set_to_none=True)
            gc.collect()
            times[name].append(timed(lambda method=method: method.step(model, problem))[clock])
    peaks = {name: peak_mb(model, lambda m=method: m.step(model, problem)) for name, (method, _) in arms.items()}
    whole_s, whole_mb = statistics.median(times["whole"]), peaks["whole"]
    rows = []
    for name, (_, budget) in arms.items():
        path = _path_tokens(problem, budget)
        path_mb = whole_mb * path / tokens if whole_mb else None
        peak = peaks[name]
        rows.append(
            {
                "arm": "memory",
                "workload": problem.name,
                "method": "palmette" if name == "whole" else f"palmette, parts of {name}",
                "dtype": str(model.dtype).removeprefix("torch."),
                "parts": len(layout(problem, budget).parts),
                "seconds": statistics.median(times[name]),
                "speed": whole_s / statistics.median(times[name]),
                "peak_mb": peak,
                "path_tokens": path,
                "path_mb": path_mb,
                "peak_of_path": peak / path_mb if peak and path_mb else None,
                "grad_error": errors[name],
            }
        )
    return rows


def _path_tokens(problem: Problem, budget: int) -> int:
    """Return the tokens of the fullest root-to-leaf path of parts."""
    total: list[int] = []
    for part in layout(problem, budget).parts:
        total.append(part.num_tokens + (total[part.parent] if part.parent != NONE else 0))
    return max(total)


def policy(model: PreTrainedModel, problem: Problem, methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Compare gradients of a clipped policy gradient, advantages of either sign, with flat ones in float64."""
    samples = list(problem.samples)
    logprobs = score_samples(model, samples, problem.shape.n_flat, tree=False)
    clipped = problem.as_policy(logprobs)
    wanted = reference(model, clipped)
    quarter = palmette(-(-problem.shape.n_tree // 4))
    running = [*flat_methods(), palmette(), replace(quarter, name="palmette, parts of 25 %"), *methods]
    return [
        {
            "arm": "policy",
            "workload": clipped.name,
            "dtype": str(model.dtype).removeprefix("torch."),
            "method": method.name,
            "grad_error": error(gradient(model, lambda m=method: m.step(model, clipped)), wanted),
        }
        for method in running
        if not method.missing and not method.refuses(clipped)
    ]


def sweep(
    model: PreTrainedModel, label: str, methods: Sequence[Method], repeats: int, length: int
) -> Iterator[list[Row]]:
    """Measure stars of 16 branches of `length` tokens that share more and more of them: POR 0.2 to 0.9."""
    for por in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        prefix = round(por * length * 16 / 15)
        problem = from_nodes(f"POR {por}", star(prefix, 16, length - prefix), model.config.vocab_size)
        yield measure(model, label, problem, flat_methods(), methods, repeats)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw speed-up over flat against POR, one line a method, under the curve of the bound."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    bound = {row.por: row.flop_bound for row in rows}
    axes.plot(list(bound), list(bound.values()), color="0.5", linestyle="--", label="bound (FLOPs)")
    for name in dict.fromkeys(row.method for row in rows):
        points = [(row.por, row.speedup) for row in rows if row.method == name and row.speedup is not None]
        if not points:
            continue
        style: dict[str, Any] = (
            {"linewidth": 2.5, "marker": "o", "color": "black", "zorder": 3} if name == "palmette" else {"marker": "."}
        )
        axes.plot(*zip(*points, strict=True), label=name, **style)
    first = rows[0]
    axes.set_xlabel("prefix overlap ratio (POR)")
    axes.set_ylabel("speed-up over flat training")
    axes.set_title(f"16 branches of one prompt, {first.model}, {first.dtype}, CPU, {first.threads} thread(s)", size=10)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def profile(model: PreTrainedModel, problem: Problem) -> str:
    """Return the operations that a step of this project spends its time on, and the same of flat training."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    tables = []
    for method in (palmette(), flat_methods()[1]):
        method.step(model, problem)
        model.zero_grad(set_to_none=True)
        with profiler(activities=[ProfilerActivity.CPU]) as record:
            method.step(model, problem)
        model.zero_grad(set_to_none=True)
        table = record.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=48)
        tables.append(f"{method.name}: {problem.name}\n{table}")
    return "\n".join(tables)

"""How much faster the tree of some branches trains than the branches, beside its bound and beside other programs.

    python benchmarks/tree_training.py [--quick] [--run RUN] [--dta PATH] [--json PATH] [--plot PATH] [--profile]

Every method computes the same gradients, and its error against flat training in float64 stands beside its time. The
bound is the ratio of the FLOPs that flat training and the tree need: body 2 * parameters * tokens, attention
4 * layers * heads * head size * pairs, head 2 * hidden size * vocabulary * supervised positions. Methods take turns in
one process; times are medians of CPU seconds (wall seconds with more than one thread). "flat" is the fastest of three:
one branch after the other, packed rows with block-diagonal attention, padded batches.

Peers that are not installed are printed as such:

    pip install -e ".[bench]"; pip install --no-deps trl==1.16.0
    git clone https://github.com/Whisper-6/DynamicTreeAttn && git -C DynamicTreeAttn checkout 62d52d3   # --dta

PrefixGrouper shares what all branches of a tree begin with ("root prefix only" on trees of more than one level). Of
TRL its own tree packing and attention function run, with SDPA in place of the CUDA kernel. The dense mask is what
AReaL's tree attention computes, without its padding. Everything takes about an hour and a half of one core, `--quick`
a minute or two.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tree_training_arms import memory, plot, policy, profile, sweep
from tree_training_measure import Row, dense_model, expert_model, measure
from tree_training_methods import flat_methods, palmette
from tree_training_peers import peers
from tree_training_workloads import Problem, body_parameters, made_up, recorded

VOCAB = 2048
_EXPERT_WORKLOADS = ("star 1024+8x128", "think chain 16x(32+48)", "no sharing")
_MEMORY_WORKLOADS = ("think chain 24x(48+64)", "agent tree depth 8", "agent tree")
_POLICY_WORKLOADS = ("agent tree depth 6", "agent tree")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller model and fewer workloads: within two minutes")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are measured (5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--dtypes", help="formats of the weights (float32,bfloat16; --quick float32)")
    parser.add_argument("--workloads", default="", help="only names that contain one of these, by commas")
    parser.add_argument("--run", type=Path, metavar="RUN", help="a run directory whose recorded trees to use")
    parser.add_argument("--dta", type=Path, metavar="PATH", help="a checkout of Whisper-6/DynamicTreeAttn")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the rows to this file")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="measure and draw speed-up against POR as well")
    parser.add_argument("--profile", action="store_true", help="print where a step spends its time, only that")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.set_num_threads(arguments.threads)
    names = [name for name in arguments.workloads.split(",") if name]
    dtypes = arguments.dtypes or ("float32" if arguments.quick else "float32,bfloat16")
    rows: list[dict[str, Any]] = []
    for dtype in (getattr(torch, name) for name in dtypes.split(",")):
        for row in _run(arguments, dtype, names):
            rows.append(row)
            if arguments.json:  # at once: what is measured is never lost
                arguments.json.write_text(json.dumps(rows, indent=1))


def _run(arguments: argparse.Namespace, dtype: torch.dtype, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    model = dense_model(VOCAB, dtype, small=arguments.quick)
    label = f"qwen3-{sum(p.numel() for p in model.parameters()) / 1e6:.0f}M"
    methods = [palmette(), *peers(arguments.dta)]
    problems = made_up(VOCAB, quick=arguments.quick)
    if arguments.run:
        problems += recorded(arguments.run, 1 if arguments.quick else 3, VOCAB, 1500 if arguments.quick else 8000)
    problems = [problem for problem in problems if not names or any(name in problem.name for name in names)]
    if arguments.profile:
        print(profile(model, problems[0]))
        return
    size = body_parameters(model.config) / 1e6
    print(f"\n{label}, {size:.1f}M in the layers, {dtype}, {arguments.threads} thread(s)")
    for problem in problems:
        yield from show(measure(model, label, problem, flat_methods(), methods, arguments.repeats))
    yield from _arms(arguments, model, problems)
    if not arguments.quick:
        experts = expert_model(VOCAB, dtype)
        for problem in problems:
            if problem.name in _EXPERT_WORKLOADS:
                yield from show(measure(experts, "qwen3-moe", problem, flat_methods(), methods, arguments.repeats))
    if arguments.plot:
        found: list[Row] = []
        for rows in sweep(model, label, methods, arguments.repeats, length=96 if arguments.quick else 192):
            found += rows
            yield from show(rows)
        name = arguments.plot.stem if dtype == torch.float32 else f"{arguments.plot.stem}_{_short(dtype)}"
        plot(found, arguments.plot.with_name(name + arguments.plot.suffix))


def _arms(arguments: argparse.Namespace, model: Any, problems: Iterable[Problem]) -> Iterator[dict[str, Any]]:
    for problem in problems:
        if problem.name in _MEMORY_WORKLOADS:
            print(f"\nmemory: {problem.name}, palmette in parts (1.00 is the tree as one)")
            print(f"  {'method':34} parts  seconds  speed  peak MB  path MB  ratio error")
            for row in memory(model, problem, arguments.repeats):
                print(
                    f"  {row['method']:34} {row['parts']:5} {row['seconds']:8.3f} {row['speed']:6.2f} "
                    f"{_number(row['peak_mb'], 8, 1)} {_number(row['path_mb'], 8, 1)} "
                    f"{_number(row['peak_of_path'], 6, 2)} {row['grad_error']:.1e}"
                )
                yield row
        if problem.name in _POLICY_WORKLOADS:
            print(f"\npolicy gradient, clipped, advantages of either sign: {problem.name}")
            for row in policy(model, problem, peers(arguments.dta)):
                print(f"  {row['method']:26} error {row['grad_error']:.1e}")
                yield row


def show(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Print the rows of each workload below what describes it, and return them for JSON."""
    workload = ""
    for row in rows:
        if row.workload != workload:
            workload = row.workload
            print(
                f"\n{workload} ({row.model}, {row.dtype}): N {row.n_flat} flat, {row.n_tree} tree, POR {row.por:.3f}; "
                f"P {row.p_flat / 1e6:.2f}M, {row.p_tree / 1e6:.2f}M; attention {row.attention_share:.0%} of flat; "
                f"bounds {row.token_bound:.2f} (tokens), {row.flop_bound:.2f} (FLOPs)"
            )
            print(
                f"  {'method':18} {'seconds':>8} {'min':>8} {'wall':>8} {'speed-up':>8} {'of bound':>8} "
                f"{'error':>8} {'peak MB':>8} {'layout ms':>9}"
            )
        if row.seconds is None:
            print(f"  {row.method:18} {row.note}")
            continue
        print(
            f"  {row.method:18} {row.seconds:8.3f} {_number(row.seconds_min, 8, 3)} {_number(row.wall_seconds, 8, 3)} "
            f"{_number(row.speedup, 8, 2)} {_number(row.fraction, 8, 2)} {row.grad_error:8.1e} "
            f"{_number(row.peak_mb, 8, 1)} {_number(row.layout_ms, 9, 1)}  {row.note}",
            flush=True,
        )
    return [row.as_dict() for row in rows]


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{value:{width}.{digits}f}" if value is not None else " " * (width - 1) + "-"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()

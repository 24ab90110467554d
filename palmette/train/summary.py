"""The numbers of a finished run: ``summary.json``."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from palmette.report.axes import axes_of
from palmette.report.load import MODELS
from palmette.run import RunDir, write_atomic
from palmette.train.job import ELSEWHERE
from palmette.train.recipe import Recipe

_OF_DOMAIN = ("sft", "expert")  # models that are measured on their own domain alone


def write_summary(recipe: Recipe, run: RunDir) -> dict[str, Any]:
    """Write and return what the finished stages say; minutes and memory are those of all attempts together."""
    domains: dict[str, dict[str, Any]] = {}
    held_out: dict[str, int] = {}
    for domain in recipe.domains:
        scores: dict[str, Any] = {}
        for model in MODELS:
            stage = f"evaluate/{model}-{domain}" if model in _OF_DOMAIN else f"evaluate/{model}"
            if run.stage_done(stage) and (score := run.stage_summary(stage)["domains"].get(domain)):
                scores |= {model: score["pass_1"], f"{model}_interval": score["interval"]}
                held_out[domain] = score["tasks"]
        domains[domain] = scores
    evaluated = [name for name in run.stages() if name.startswith("evaluate/")]
    named = [(name.removeprefix("evaluate/").split("-")[0], run.stage_summary(name)) for name in evaluated]
    stages = [run.stage_summary(name) for name in run.stages()]
    summary = {
        "domains": domains,
        "axes": axes_of(named),
        "experts_elsewhere": _elsewhere(recipe, run),
        "tasks_held_out": sum(held_out.values()),
        "minutes": round(sum(stage.get("seconds", 0.0) for stage in stages) / 60, 2),
        "peak_memory_gb": max((stage.get("peak_memory_gb", 0.0) for stage in stages), default=0.0),
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomic(run.path / "summary.json", json.dumps(summary, indent=1) + "\n")
    return summary


def _elsewhere(recipe: Recipe, run: RunDir) -> dict[str, dict[str, Any]]:
    """Return what each expert scored on the domains of the others, where that was measured."""
    stages = {domain: f"evaluate/{ELSEWHERE}-{domain}" for domain in recipe.domains}
    return {
        expert: {
            domain: {"pass_1": score["pass_1"], "interval": score["interval"]}
            for domain, score in run.stage_summary(stage)["domains"].items()
        }
        for expert, stage in stages.items()
        if run.stage_done(stage)
    }


def machine() -> str:
    """Return processor, cores and memory in words."""
    cores = len(os.sched_getaffinity(0))
    memory_gb = psutil.virtual_memory().total / 1e9
    return f"{_processor()}, {cores} cores, {memory_gb:.0f} GB, {platform.system()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

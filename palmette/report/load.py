"""What a run directory says, read once: configuration, metrics, stages, and the summary of scores."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from palmette.run import RunDir

_BASELINES = ("average", "offline_sft", "mixed_rl", "by_domain", "by_evidence")
MODELS = ("base", "sft", "expert", *_BASELINES, "student")  # as a run makes them


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a run; `seconds` is None where the run does not say how long it took."""

    name: str
    steps: int
    seconds: float | None
    finished: bool
    summary: dict[str, Any]  # as the stage left it; empty while it is unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric of one stage: `values_T` at `steps_T`, absent values left out."""

    stage: str
    name: str
    steps_T: tuple[int, ...]
    values_T: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run directory in memory, all but its trees; `summary` is empty until the run has scores."""

    path: Path
    state: str
    config_text: str
    source_text: str
    config: dict[str, Any]
    summary: dict[str, Any]
    rows: tuple[dict[str, Any], ...]
    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def domains(self) -> dict[str, dict[str, Any]]:
        """Scores by domain as in `summary.json`; empty until there are any."""
        return self.summary.get("domains", {})

    @property
    def tasks_held_out(self) -> int | None:
        """Number of held-out tasks over all domains."""
        return self.summary.get("tasks_held_out")

    def evaluations(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (model, scores as `Evaluation.to_dict` has them) of each finished stage ``evaluate/<model>...``."""
        return [
            (stage.name.removeprefix("evaluate/").split("-")[0], stage.summary)
            for stage in self.stages
            if stage.name.startswith("evaluate/") and stage.finished
        ]

    def series(self, stage: str) -> list[Series]:
        """Return the metrics of a stage that have at least one finite number, in order of first appearance."""
        points: dict[str, list[tuple[int, float]]] = {}
        for row in self.rows:
            if row["stage"] != stage:
                continue
            for name, value in row.items():
                if name not in ("time", "stage", "step") and _is_number(value):
                    points.setdefault(name, []).append((int(row["step"]), float(value)))
        return [
            Series(stage=stage, name=name, steps_T=tuple(s for s, _ in each), values_T=tuple(v for _, v in each))
            for name, each in points.items()
        ]


def told_of_trees(run: RunRecord, stage: str) -> str:
    """Return how much of a stage's tokens trees shared and how much faster that made it; empty without trees."""
    found = {each.name: each.values_T for each in run.series(stage)}
    if "por" not in found:
        return ""
    shared = f"{100 * sum(found['por']) / len(found['por']):.0f} % shared"
    return f"{shared}, {found['tree_speedup'][0]:.1f}x" if "tree_speedup" in found else shared


def load_run(path: Path) -> RunRecord:
    """Read a run directory; works while the run is under way. Raises `UserError` when there is no run at `path`."""
    run = RunDir.open(Path(path).resolve())
    rows = tuple(run.read_metrics())
    config_text = _text(run.path / "config.toml")
    return RunRecord(
        path=run.path,
        state=run.state,
        config_text=config_text,
        source_text=_text(run.path / "git.txt"),
        config=tomllib.loads(config_text),
        summary=json.loads(_text(run.path / "summary.json") or "{}"),
        rows=rows,
        stages=tuple(_stages(run, rows)),
    )


def _stages(run: RunDir, rows: tuple[dict[str, Any], ...]) -> list[Stage]:
    """Return the finished stages, oldest first, then those that have metrics only."""
    finished = run.stages()
    named = [*finished, *dict.fromkeys(row["stage"] for row in rows if row["stage"] not in finished)]
    stages = []
    for name in named:
        summary = run.stage_summary(name) if name in finished else {}
        of_stage = [row for row in rows if row["stage"] == name]
        stages.append(
            Stage(
                name=name,
                steps=int(summary.get("steps", max((row["step"] for row in of_stage), default=0))),
                seconds=_seconds(summary, of_stage),
                finished=name in finished,
                summary=summary,
            )
        )
    return stages


def _seconds(summary: dict[str, Any], rows: list[dict[str, Any]]) -> float | None:
    """Return how long a stage took: as its summary says, else from its first metric to its last."""
    for name in ("seconds", "wall_s"):
        if _is_number(summary.get(name)):
            return float(summary[name])
    times = [_unix(row["time"]) for row in rows if "time" in row]
    return max(times) - min(times) if len(times) > 1 else None


def _unix(time: float | str) -> float:
    return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else float(time)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

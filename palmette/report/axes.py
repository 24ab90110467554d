"""What models scored along each axis that was measured: by difficulty, by phrasing, by scaffold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from palmette.report.load import MODELS

Axes = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""axis -> domain -> value on it -> scores as in ``summary.json``: ``{model: pass@1, model_interval: [low, high]}``."""


def axes_of(evaluations: Iterable[tuple[str, Mapping[str, Any]]]) -> Axes:
    """Return the scores of (model, what its evaluation left) by axis; an axis that nobody measured is not there.

    Experts count on their own domain alone, as in the table of all.
    """
    found: Axes = {}
    for model, evaluation in evaluations:
        if model not in MODELS:
            continue
        by_value = {
            "tier": [(domain, tier, s) for domain, of in evaluation.get("tiers", {}).items() for tier, s in of.items()],
            **{
                axis: [(domain, value, score) for value, of in values.items() for domain, score in of.items()]
                for axis, values in evaluation.get("axes", {}).items()
            },
        }
        for axis, scores in by_value.items():
            for domain, value, score in scores:
                row = found.setdefault(axis, {}).setdefault(domain, {}).setdefault(value, {})
                row |= {model: score["pass_1"], f"{model}_interval": score["interval"]}
    return found

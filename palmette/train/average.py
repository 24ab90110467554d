"""The model whose weights are the mean of the experts'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from palmette.errors import UserError
from palmette.model.load import save_model, weight_shapes
from palmette.train.job import Job, teacher_of
from palmette.train.stage import model_dir


async def averaged(job: Job) -> Path:
    """Return the directory of the mean model, made once. Raises `UserError` for experts that do not match."""
    target = model_dir(job.run, "average")
    if job.run.stage_done("average"):
        return target
    paths = [teacher_of(job, domain) for domain in job.recipe.domains]
    check_alike(paths)
    model, *others = [job.load(path) for path in paths]
    weights = dict(model.named_parameters())  # tied ones once
    with torch.no_grad():
        for other in others:
            for name, tensor in other.named_parameters():
                weights[name].add_(tensor)
        for tensor in weights.values():
            tensor.div_(len(paths))
    save_model(model, paths[0], target)
    job.finish("average", 0.0, experts=len(paths))
    return target


def check_alike(paths: Sequence[Path]) -> None:
    """Raise `UserError` unless the weights of all models have the same names and shapes."""
    first: Mapping[str, tuple[int, ...]] = {}
    for path in dict.fromkeys(paths):
        found = weight_shapes(path)
        first = first or found
        if odd := [name for name in first.keys() | found.keys() if first.get(name) != found.get(name)]:
            raise UserError(
                f"{path} is of another architecture than {paths[0]} ({min(odd)} differs), so they have no mean: "
                "take average out of baselines, and out of distil.start"
            )

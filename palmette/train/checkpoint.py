"""Checkpoints: everything a stage needs to go on as if nothing had happened.

    step_00012/  weights.safetensors  optimiser.safetensors  rng.safetensors  state.json

A checkpoint directory appears whole or not at all (written aside, synced, renamed). Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from palmette.errors import UserError
from palmette.run import sync
from palmette.train.optim import Optimiser

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a stage stands: `step` steps are done, `store_offset` records of the tree store belong to them."""

    step: int
    version: int  # weight version the engine served last
    store_offset: int = 0
    extra: dict[str, Any] = field(default_factory=dict)  # JSON values of the stage's own


def save(
    folder: Path,
    model: nn.Module,
    optimiser: Optimiser,
    generator: np.random.Generator,
    position: Position,
    *,
    keep: int = 2,
) -> Path:
    """Write ``folder/step_N`` atomically, drop all but the newest `keep`, and return its path."""
    target = folder / f"step_{position.step:05d}"
    aside = folder / f".{target.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    state = {
        "format": FORMAT,
        "step": position.step,
        "version": position.version,
        "store_offset": position.store_offset,
        "extra": position.extra,
        "generator": generator.bit_generator.state,
    }
    try:
        save_file(weights(model), aside / "weights.safetensors")
        save_file(_contiguous(optimiser.state()), aside / "optimiser.safetensors")
        save_file(_torch_rng(), aside / "rng.safetensors")
        (aside / "state.json").write_text(json.dumps(state, indent=1))
        for path in aside.iterdir():
            sync(path)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        sync(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise UserError(f"cannot write the checkpoint {target}: {error.strerror or error}; free some space") from error
    for old in _all(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def latest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in `folder`, or None."""
    found = _all(folder)
    return found[-1] if found else None


def load(path: Path, model: nn.Module, optimiser: Optimiser, generator: np.random.Generator) -> Position:
    """Put model, optimiser and both random states back, and return where the stage stood.

    Raises `UserError` when the checkpoint is damaged or belongs to another architecture.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        tensors = {name: load_file(path / f"{name}.safetensors") for name in ("weights", "optimiser", "rng")}
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"the checkpoint {path} cannot be read ({error}); delete it to go on from an older one"
        ) from error
    if state.get("format") != FORMAT:
        raise UserError(f"the checkpoint {path} has format {state.get('format')}, this palmette reads {FORMAT}")
    load_weights(model, tensors["weights"], where=str(path))
    optimiser.load_state(tensors["optimiser"])
    generator.bit_generator.state = state["generator"]
    torch.set_rng_state(tensors["rng"]["cpu"])
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda.{index}" in tensors["rng"]:
            torch.cuda.set_rng_state(tensors["rng"][f"cuda.{index}"], index)
    return Position(
        step=state["step"], version=state["version"], store_offset=state["store_offset"], extra=state["extra"]
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers, tied ones once, as contiguous tensors on their own storage."""
    names = set(model.state_dict().keys())
    found = {name: p.detach() for name, p in model.named_parameters()}
    found |= {name: b.detach() for name, b in model.named_buffers() if name in names}
    return _contiguous(found)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Copy `tensors` into the model. Raises `UserError` in one line when they are of another architecture."""
    own = weights(model)
    if missing := sorted(own.keys() ^ tensors.keys()):
        raise UserError(
            f"{where} is of another architecture: '{missing[0]}' is on one side only; use the same model.path"
        )
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            shapes = f"{list(value.shape)} there, {list(own[name].shape)} here"
            raise UserError(f"{where} is of another architecture: '{name}' is {shapes}; use the same model.path")
    slots = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, value in tensors.items():
            slots[name].copy_(value)


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step_*") if p.is_dir()) if folder.is_dir() else []


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in tensors.items()}


def _torch_rng() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda.{i}": torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())}
    return states

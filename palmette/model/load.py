"""Real weights from a directory and back: any causal language model that transformers can build."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palmette.errors import UserError, suggest
from palmette.run import sync

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDDED = "palmette:base"

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
# What belongs to the tokenizer and the template, copied beside saved weights where the source has it.
_COPIED = (
    *_TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def resolve_model(spec: str) -> Path:
    """Return the directory of ``"palmette:base"`` (shipped in the package) or of a path. Raises `UserError`."""
    if spec == EMBEDDED:
        path = embedded_path()
        if not (path / "config.json").is_file():
            raise UserError(f"the embedded model is not in {path}; make it with `palmette run recipes/base.toml`")
        return path
    if spec.startswith("palmette:"):
        raise UserError(f"there is no model {spec!r}{suggest(spec, [EMBEDDED])}; the only embedded one is {EMBEDDED!r}")
    path = Path(spec).expanduser()
    if not path.is_dir():
        raise UserError(f"there is no model directory {path}; give a directory with config.json, or {EMBEDDED!r}")
    return path


def embedded_path() -> Path:
    """Return the directory palmette/model/base of the installed package, whether or not it is filled."""
    return Path(__file__).parent / "base"


def check_model_dir(path: Path) -> None:
    """Raise `UserError` unless `path` has a configuration, weights and a tokenizer."""
    if not path.is_dir():
        raise UserError(f"there is no model directory {path}; give a directory with config.json, or {EMBEDDED!r}")
    if not (path / "config.json").is_file():
        raise UserError(f"{path} has no config.json; give the directory of a Hugging Face causal language model")
    if not any((path / name).is_file() for name in _WEIGHTS):
        raise UserError(f"{path} has no weights; put model.safetensors (or its index and shards) there")
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise UserError(f"{path} has no tokenizer; put tokenizer.json and tokenizer_config.json there")


def weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a model's weights, by its configuration alone. Raises `UserError`."""
    check_model_dir(path)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # as in load_model
        raise UserError(f"cannot read the configuration in {path}: {_one_line(error)}") from error
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def load_model(path: Path, *, dtype: str = "float32", device: str = "cpu") -> PreTrainedModel:
    """Return the causal language model of a directory, in evaluation mode, from local files only.

    Raises `UserError` (one line) when a file is missing, the weights are damaged or do not belong to the
    configuration, the architecture is unknown, or `dtype` or `device` is.
    """
    check_model_dir(path)
    import torch
    from transformers import AutoModelForCausalLM

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        known = ("float32", "bfloat16", "float16", "float64")
        raise UserError(f"dtype {dtype!r} is unknown{suggest(dtype, known)}; use one of {', '.join(known)}")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=kind, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except MemoryError as error:
        raise UserError(f"the model in {path} does not fit in memory as {dtype}; try bfloat16") from error
    # transformers and safetensors raise whatever they meet in a broken directory: there is no common base class.
    except Exception as error:
        raise UserError(f"cannot load the model in {path}: {_one_line(error)}") from error
    model, info = loaded
    for what in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, info.get(what, ()))):
            raise UserError(
                f"the weights in {path} do not belong to its config.json: {len(names)} "
                f"{what.replace('_', ' ')}, first {names[0]}; save both from the same model"
            )
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"cannot put the model on device {device!r}: {_one_line(error)}; use 'cpu'") from error


def save_model(model: PreTrainedModel, source_dir: Path, target_dir: Path) -> None:
    """Write weights (safetensors), configuration, and the tokenizer and template files of `source_dir`, atomically.

    `target_dir` appears whole or not at all; one that exists is replaced.
    """
    target_dir.parent.mkdir(parents=True, exist_ok=True)
    fresh = target_dir.with_name(f".{target_dir.name}.new-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        model.save_pretrained(fresh)
        for name in _COPIED:
            if (source_dir / name).is_file():
                shutil.copyfile(source_dir / name, fresh / name)
        for file in fresh.iterdir():
            sync(file)
        sync(fresh)
        _replace(fresh, target_dir)
    except OSError as error:
        raise UserError(
            f"cannot write the model to {target_dir}: {_one_line(error)}; free space or choose another place"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _replace(fresh: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

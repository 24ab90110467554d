"""Models from directories and back, and what is said about directories that will not do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    BertConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from palmette.errors import UserError
from palmette.model.load import embedded_path, load_model, resolve_model, save_model

_SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


@pytest.fixture(params=["llama", "qwen3_moe"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A whole model directory: weights, configuration, tokenizer, chat template."""
    torch.manual_seed(0)
    if request.param == "llama":
        model = LlamaForCausalLM(LlamaConfig(**_SHAPE))
    else:
        more = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "tie_word_embeddings": True}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**_SHAPE, **more))
    path = tmp_path / "model"
    model.save_pretrained(path)
    raw = Tokenizer(models.WordLevel({chr(97 + i): i for i in range(26)} | {"?": 26}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="?")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(path)
    return path


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_saving_and_loading_keeps_weights_tokenizer_and_template(directory: Path, tmp_path: Path) -> None:
    model = load_model(directory)
    assert model.dtype == torch.float32
    assert not model.training
    with torch.no_grad():
        next(iter(model.parameters())).add_(1.0)
    target = tmp_path / "deep" / "saved"
    for _ in range(2):  # the second time it replaces the first
        save_model(model, directory, target)
        assert _same(load_model(target), model)
    assert sorted(path.name for path in target.parent.iterdir()) == ["saved"]
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (target / name).read_bytes() == (directory / name).read_bytes()
    assert AutoTokenizer.from_pretrained(target).encode("a b") == [0, 1]


def test_a_failed_save_leaves_what_was_there(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, target = load_model(directory), tmp_path / "saved"
    save_model(model, directory, target)
    monkeypatch.setattr(shutil, "copyfile", _disk_full)
    with pytest.raises(UserError, match="No space left"):
        save_model(model, directory, target)
    assert _same(load_model(target), model)
    assert not list(tmp_path.glob(".saved*"))


def _disk_full(source: Path, target: Path) -> None:
    raise OSError(28, "No space left on device")


def test_other_formats(directory: Path) -> None:
    assert load_model(directory, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(UserError, match="did you mean 'bfloat16'"):
        load_model(directory, dtype="bfloat")
    with pytest.raises(UserError, match="device 'abacus'"):
        load_model(directory, device="abacus")


@pytest.mark.parametrize(
    ("removed", "words"),
    [
        (("config.json",), "has no config.json"),
        (("model.safetensors",), "has no weights"),
        (("tokenizer.json",), "has no tokenizer"),
    ],
)
def test_missing_files_are_named(directory: Path, removed: tuple[str, ...], words: str) -> None:
    for name in removed:
        (directory / name).unlink()
    _assert_refused(directory, words)


def test_damaged_directories_are_refused_in_one_line(directory: Path) -> None:
    config, weights = directory / "config.json", directory / "model.safetensors"
    good_config, good_weights = config.read_text(), weights.read_bytes()
    weights.write_bytes(good_weights[:1000])
    _assert_refused(directory, "cannot load the model")
    weights.write_bytes(good_weights)
    config.write_text("{")
    _assert_refused(directory, "cannot load the model")
    config.write_text(json.dumps(json.loads(good_config) | {"num_hidden_layers": 3}))
    _assert_refused(directory, "missing keys, first model.layers.2")
    config.write_text(json.dumps(json.loads(good_config) | {"model_type": "no_such_model"}))
    _assert_refused(directory, "cannot load the model")
    config.write_text(json.dumps(json.loads(good_config) | {"intermediate_size": 24, "moe_intermediate_size": 24}))
    _assert_refused(directory, "model")


def test_other_kinds_of_models_are_refused(directory: Path) -> None:
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    (directory / "config.json").write_text(json.dumps(config.to_dict() | {"model_type": "t5"}))
    _assert_refused(directory, "cannot load the model")


def test_names_of_models(directory: Path, tmp_path: Path) -> None:
    assert resolve_model(str(directory)) == directory
    with pytest.raises(UserError, match="no model directory"):
        resolve_model(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="did you mean 'palmette:base'"):
        resolve_model("palmette:bas")
    if (embedded_path() / "config.json").is_file():
        assert resolve_model("palmette:base") == embedded_path()
    else:
        with pytest.raises(UserError, match=r"palmette run recipes/base\.toml"):
            resolve_model("palmette:base")


def _assert_refused(directory: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_model(directory)
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)

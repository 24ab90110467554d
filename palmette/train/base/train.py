"""Trains the embedded base model from nothing and writes it as an ordinary model directory with its card.

Stages of the run: ``tokenizer``, ``train``, ``export``. The result is `runs/<name>/model`; copied to
`palmette/model/base` it is the embedded base.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palmette.chat.form import Form, as_it_is, schema, tell
from palmette.chat.message import Message, Tool
from palmette.progress import Progress
from palmette.run import RunDir
from palmette.scaffolds.loop import TOOLS
from palmette.train.base.card import write_card
from palmette.train.base.corpus import Transcript, transcripts
from palmette.train.base.recipe import BaseRecipe, Shape
from palmette.train.base.tokenizer import END_OF_TEXT, TURN_END, TURN_START, chat_template, train_tokenizer
from palmette.train.samples import Sample, from_demonstration
from palmette.train.sft import Likelihood
from palmette.train.stage import Stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3MoeForCausalLM

_TOKENIZER_TRANSCRIPTS = 3000
_LAST_STEPS = 50  # the card's loss is the mean over these


async def train_base(recipe: BaseRecipe, run: RunDir) -> None:
    """Run the recipe; finished stages are skipped, interrupted training goes on from its last checkpoint."""
    import torch

    torch.manual_seed(recipe.seed)
    target = run.path / "model"
    tokenizer = _tokenizer(recipe, run, target)
    model = fresh_model(recipe.shape, tokenizer)
    torch.set_flush_denormal(True)  # tiny optimiser moments and probabilities cost CPUs a factor otherwise
    try:
        await _train(recipe, run, model, tokenizer)
    finally:
        torch.set_flush_denormal(False)  # the processor's flag is the caller's too
    if not run.stage_done("export"):
        model.save_pretrained(target)
        rows = run.read_metrics("train")
        tokens = int(sum(row["tokens"] for row in rows))
        loss = float(np.mean([row["loss"] for row in rows[-_LAST_STEPS:]]))
        write_card(target, recipe, num_parameters=model.num_parameters(), tokens=tokens, loss=loss)
        run.finish_stage("export", {"model": "model", "tokens": tokens, "loss": round(loss, 4)})


def render(messages: Sequence[Message], tools: Sequence[Tool] = TOOLS) -> str:
    """Return a conversation with the tools offered in it as the embedded template tells it, all at once."""
    from transformers.utils.chat_template_utils import render_jinja_template

    offered: list[Any] = [schema(tool) for tool in tools]
    told = tell(messages, tools, Form(), as_it_is)
    rendered, _ = render_jinja_template(conversations=[told], tools=offered, chat_template=chat_template())
    return rendered[0]


def sample_of(text: str, tokenizer: PreTrainedTokenizerFast) -> Sample:
    """Tokenise a rendered conversation; the assistant's turns, up to and including their end mark, carry loss."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    header = tokenizer.encode(f"{TURN_START}assistant\n", add_special_tokens=False)
    end = tokenizer.encode(TURN_END, add_special_tokens=False)[0]
    sampled_T = np.zeros(len(ids), bool)
    position = 0
    while position < len(ids):
        if ids[position : position + len(header)] != header:
            position += 1
            continue
        start = position + len(header)
        position = ids.index(end, start) + 1
        sampled_T[start:position] = True
    return from_demonstration(ids, sampled_T.tolist())


def fresh_model(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> Qwen3MoeForCausalLM:
    """Return an untrained Qwen3-MoE decoder of `shape` with tied embeddings; torch's seed decides its weights."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        head_dim=shape.head_dim,  # pyright: ignore[reportCallIssue]  (taken, but not named by the class)
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.expert_dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        num_experts=shape.experts,
        num_experts_per_tok=shape.experts_per_token,
        moe_intermediate_size=shape.expert_dim,
        norm_topk_prob=True,
        tie_word_embeddings=True,
        max_position_embeddings=shape.context,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        eos_token_id=tokenizer.convert_tokens_to_ids(TURN_END),
        pad_token_id=tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        bos_token_id=None,
    )
    model = Qwen3MoeForCausalLM(config).eval()
    model.set_experts_implementation("grouped_mm")
    return model


def _tokenizer(recipe: BaseRecipe, run: RunDir, target: Path) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    if run.stage_done("tokenizer"):
        return PreTrainedTokenizerFast.from_pretrained(target)
    texts = (render(each.messages, each.tools) for each in read(recipe, "tokenizer", _TOKENIZER_TRANSCRIPTS))
    tokenizer = train_tokenizer(texts, vocab_size=recipe.shape.vocab, context_tokens=recipe.shape.context)
    tokenizer.save_pretrained(target)
    run.finish_stage("tokenizer", {"vocab": len(tokenizer)})
    return tokenizer


async def _train(
    recipe: BaseRecipe, run: RunDir, model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    stage = Stage(
        run,
        "train",
        model,
        recipe.optim,
        updates=recipe.steps,
        seed=recipe.seed,
        checkpoint_every=recipe.save_every,
        way=recipe.train,
    )
    with Progress("train", recipe.steps, "steps", done=stage.step) as bar, stage.kept():
        for step in range(stage.step, recipe.steps):
            read_now = read(recipe, str(step), recipe.batch)
            batch = [sample_of(render(each.messages, each.tools), tokenizer) for each in read_now]
            row = await stage.advance(lambda _, batch=batch: [batch], Likelihood(), token_budget=recipe.token_budget)
            bar.update(1, loss=row["loss"], tokens=row["tokens"])
    if not run.stage_done("train"):
        run.finish_stage("train", {"steps": stage.step, "seconds": round(stage.seconds, 1)})


def read(recipe: BaseRecipe, part: str, count: int) -> list[Transcript]:
    """Return the transcripts that a part of the training reads: "tokenizer", or the number of a step."""
    corpus = recipe.corpus
    seed = f"{recipe.seed}/{part}"
    return transcripts(corpus.weights, corpus.levels, count=count, sloppy=corpus.sloppy, split="train", seed=seed)

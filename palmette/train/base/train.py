"""Trains the embedded base model from nothing and writes it as an ordinary model directory with its card.

Stages of the run: tokenizer, train, export. The result lies in `runs/<name>/model`; it becomes the embedded base when
copied to `palmette/model/base`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from palmette.chat.message import Message
from palmette.chat.template import as_dicts, tool_dicts
from palmette.progress import Progress
from palmette.run import RunDir
from palmette.scaffolds.loop import TOOLS
from palmette.train import checkpoint
from palmette.train.base.card import write_card
from palmette.train.base.corpus import transcripts
from palmette.train.base.recipe import BaseRecipe
from palmette.train.base.tokenizer import END_OF_TEXT, TURN_END, train_tokenizer
from palmette.train.losses import nll
from palmette.train.optim import Optimiser
from palmette.train.samples import Sample, from_demonstration
from palmette.train.step import train_step

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3MoeForCausalLM

_TOKENIZER_TRANSCRIPTS = 3000
_HEADER = "<|im_start|>assistant\n"


async def train_base(recipe: BaseRecipe, run: RunDir) -> None:
    """Run the recipe; finished stages are skipped, an interrupted training goes on from its last checkpoint."""
    tokenizer = _tokenizer(recipe, run)
    model, tokens, loss = await _train(recipe, run, tokenizer)
    target = run.path / "model"
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    write_card(target, recipe, num_parameters=model.num_parameters(), tokens=tokens, loss=loss)
    run.finish_stage("export", {"model": str(target), "tokens": tokens, "loss": loss})


def texts(conversations: Iterator[tuple[Message, ...]], tokenizer_template: str) -> Iterator[str]:
    """Render conversations as the built-in loop would show them, tools included."""
    from transformers.utils.chat_template_utils import render_jinja_template

    for messages in conversations:
        rendered, _ = render_jinja_template(
            conversations=[as_dicts(messages)], tools=tool_dicts(TOOLS), chat_template=tokenizer_template
        )
        yield rendered[0]


def sample_of(text: str, tokenizer: PreTrainedTokenizerFast) -> Sample:
    """Tokenise a rendered conversation; the assistant's turns, up to and including their end mark, carry loss."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    header = tokenizer.encode(_HEADER, add_special_tokens=False)
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    sampled = np.zeros(len(ids), bool)
    position = 0
    while position < len(ids):
        if ids[position : position + len(header)] != header:
            position += 1
            continue
        start = position + len(header)
        position = ids.index(end, start) + 1
        sampled[start:position] = True
    return from_demonstration(ids, sampled.tolist())

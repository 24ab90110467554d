"""The model card of the embedded base: written from what the run knows, so that it cannot disagree with it."""

from __future__ import annotations

from pathlib import Path

from palmette.run import write_atomic
from palmette.train.base.recipe import BaseRecipe


def write_card(directory: Path, recipe: BaseRecipe, *, num_parameters: int, tokens: int, loss: float) -> None:
    """Write README.md into a model directory: recipe, data, tokens, loss, and what the model is not."""
    shape, corpus = recipe.shape, recipe.corpus
    write_atomic(
        directory / "README.md",
        f"""\
---
license: apache-2.0
library_name: transformers
---
# Palmette's embedded base

A {num_parameters / 1e6:.2f} M-parameter decoder of the Qwen3-MoE architecture ({shape.layers} layers, width \
{shape.hidden}, {shape.experts} experts a layer, {shape.experts_per_token} a token), trained from nothing by \
`palmette run recipes/base.toml` (seed {recipe.seed}). It exists so that the whole system runs offline on two CPU cores.

| | |
|---|---|
| data | generated agent transcripts, training split: {_listed(recipe)} |
| quality of the data | {corpus.sloppy:.0%} of the transcripts go wrong at exactly one step, on purpose |
| transcripts | {recipe.steps * recipe.batch:,} |
| tokens | {tokens / 1e6:.1f} M, of which the assistant's turns carry loss |
| final loss | {loss:.3f} nats per token of the assistant's turns (mean of the last 50 steps) |
| tokenizer | byte-level BPE, {shape.vocab} tokens, trained on the same transcripts |
| context | {shape.context} tokens |

**Visibly imperfect by design.** {corpus.sloppy:.0%} of what it read ends in failure, so it solves only a part of the \
held-out tasks of any domain (the demo's table says how many). It knows no other task, no other language and no \
facts: use it to try the machinery, and a real model for everything else.
""",
    )


def _listed(recipe: BaseRecipe) -> str:
    corpus, total = recipe.corpus, sum(recipe.corpus.weights.values())
    return "; ".join(
        f"{name} ({weight / total:.0%}, tier{'s' * (len(corpus.levels[name]) > 1)} "
        f"{', '.join(map(str, corpus.levels[name]))})"
        for name, weight in corpus.weights.items()
    )

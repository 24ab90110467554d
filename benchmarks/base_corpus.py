"""What the embedded base reads: transcripts, tokens and the longest one, by domain, under a tokenizer trained on them.

    python benchmarks/base_corpus.py [RECIPE] [--count N] [--json PATH]

Rows are {domain, metric, value, unit}. `words` are tokens that the tokenizer spends on a word (letters in a row);
`drafting` is what making one transcript takes, rendering it included.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from pathlib import Path

from palmette.train.base.recipe import BaseRecipe
from palmette.train.base.tokenizer import train_tokenizer
from palmette.train.base.train import read, render
from palmette.train.recipe import read_recipe

Row = dict[str, str | float]


def main() -> None:
    """Measure, print, and write the rows down; the exit code is 1 where a transcript does not fit the context."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=Path("recipes/base.toml"))
    parser.add_argument("--count", type=int, default=2000, help="transcripts in all")
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe, ())
    assert isinstance(recipe, BaseRecipe)
    rows = measure(recipe, arguments.count)
    for row in rows:
        print(f"{row['domain']:10} {row['metric']:12} {row['value']:10.4g} {row['unit']}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))
    raise SystemExit(max(float(row["value"]) for row in rows if row["metric"] == "longest") > recipe.shape.context)


def measure(recipe: BaseRecipe, count: int) -> list[Row]:
    """Return the rows of every domain."""
    texts: dict[str, list[str]] = {}
    began_s = time.perf_counter()
    for each in read(recipe, "tokenizer", count):
        texts.setdefault(each.domain, []).append(render(each.messages, each.tools))
    took_ms = (time.perf_counter() - began_s) * 1e3 / count
    everything = [text for of_domain in texts.values() for text in of_domain]
    tokenizer = train_tokenizer(everything, vocab_size=recipe.shape.vocab, context_tokens=recipe.shape.context)
    rows: list[Row] = [{"domain": "all", "metric": "drafting", "value": took_ms, "unit": "ms"}]
    total = 0
    for domain, of_domain in texts.items():
        tokens = [len(tokenizer.encode(text, add_special_tokens=False)) for text in of_domain]
        words = [word for text in of_domain[:100] for word in re.findall("[a-z]+", text)]
        spent = [len(tokenizer.encode(word, add_special_tokens=False)) for word in words]
        total += sum(tokens)
        rows += [
            {"domain": domain, "metric": "transcripts", "value": len(tokens), "unit": "transcripts"},
            {"domain": domain, "metric": "mean", "value": statistics.mean(tokens), "unit": "tokens"},
            {"domain": domain, "metric": "longest", "value": max(tokens), "unit": "tokens"},
            {"domain": domain, "metric": "words", "value": statistics.mean(spent), "unit": "tokens/word"},
        ]
    for row in [row for row in rows if row["metric"] == "mean"]:
        of_all = float(row["value"]) * len(texts[str(row["domain"])]) / total
        rows.append({"domain": row["domain"], "metric": "share", "value": of_all, "unit": "of tokens"})
    return rows


if __name__ == "__main__":
    main()

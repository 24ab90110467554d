"""``palmette config``: a recipe with every value resolved."""

from __future__ import annotations

from collections.abc import Sequence

from palmette.config import find_recipe
from palmette.toml import dump_toml


def show(recipe: str, overrides: Sequence[str], *, as_json: bool) -> None:
    """Print the resolved recipe as annotated TOML or as JSON."""
    from palmette.train.recipe import read_recipe

    resolved = read_recipe(find_recipe(recipe), overrides)
    print(resolved.model_dump_json(indent=1) if as_json else dump_toml(resolved), end="\n" if as_json else "")

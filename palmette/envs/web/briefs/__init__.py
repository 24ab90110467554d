"""What there is to build, by tier and split: families of held-out tasks are never trained on."""

from __future__ import annotations

from collections.abc import Callable

from palmette.envs.api import Split
from palmette.envs.terminal.goals import Names
from palmette.envs.web.brief import Brief
from palmette.envs.web.briefs.charts import columns, ranking, scatter, slides
from palmette.envs.web.briefs.components import accordion, dialog, tabs
from palmette.envs.web.briefs.data import dashboard, table
from palmette.envs.web.briefs.forms import search, signup, todo
from palmette.envs.web.briefs.games import crosses, sticks
from palmette.envs.web.briefs.sites import shop, studio

Maker = Callable[[Names], Brief]

BRIEFS: dict[int, dict[Split, tuple[Maker, ...]]] = {
    3: {"train": (tabs, accordion, signup, todo), "heldout": (dialog, search)},
    4: {"train": (columns, scatter, slides), "heldout": (ranking, table)},
    5: {"train": (studio, dashboard), "heldout": (shop,)},
    6: {"train": (crosses,), "heldout": (sticks,)},
}

"""What a task brings for a scaffold beside its sandbox: its own tools, its user, its system prompt."""

from __future__ import annotations

from palmette.envs.api import Draft, Task
from palmette.envs.services import Services
from palmette.envs.tools import manual
from palmette.scaffolds.api import Offer


def offer_of(task: Task | Draft, services: Services | None = None) -> Offer:
    """Return the offer of a task whose `services` run; without them its tools can be shown, but not called."""
    return Offer(
        tools=tuple(each.tool for each in task.tools),
        call=services.call if services and task.tools else None,
        say=services.say if services and task.user else None,
        shell=task.shell,
        system=task.system,
        manual=manual(task),
    )

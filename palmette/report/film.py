"""Draws an episode of a team as SVG: a film strip of who was where and told whom, and the graph of who told whom."""

from __future__ import annotations

import math
from collections import Counter
from html import escape
from typing import Any

_FRAMES = 12  # of a strip; a longer episode is thinned evenly
_SIDE, _MARGIN = 150, 16  # of a frame, px
_RING = 240  # side of the graph, px

Film = dict[str, Any]


def strip(film: Film) -> str:
    """Return frames of the episode in order, one SVG each, that wrap like words."""
    steps = film["steps"]
    chosen = sorted({round(index * (len(steps) - 1) / (_FRAMES - 1)) for index in range(_FRAMES)}) if steps else []
    return "".join(
        f'<figure class="shot">{_frame(film, steps[number])}<figcaption>{number}</figcaption></figure>'
        for number in chosen
    )


def graph(film: Film) -> str:
    """Return the links of the whole episode: thick where often open, dark where the gate was sure."""
    agents, steps = film["agents"], film["steps"]
    open_steps: Counter[tuple[int, int]] = Counter()
    sure: Counter[tuple[int, int]] = Counter()
    for step in steps:
        for sender, receiver, probability in step["links"]:
            open_steps[sender, receiver] += 1
            sure[sender, receiver] += probability
    turns = [2 * math.pi * index / len(agents) for index in range(len(agents))]
    centre, radius = _RING / 2, _RING / 2 - 26
    spots = [(centre + radius * math.sin(turn), centre - radius * math.cos(turn)) for turn in turns]
    arrows = "".join(
        _arrow(
            spots[i],
            spots[j],
            f"{agents[i]} told {agents[j]} in {count} of {len(steps)} steps",
            width=1 + 4 * count / len(steps),
            opacity=0.15 + 0.8 * sure[i, j] / count,
            bend=14,
        )
        for (i, j), count in sorted(open_steps.items())
    )
    title = f"who told whom over {len(steps)} steps"
    return _svg(_RING, _RING, title, arrows + "".join(map(_agent, spots, agents)), "ring")


def _frame(film: Film, step: dict[str, Any]) -> str:
    spots = [_spot(place) for place in step["places"]]
    things = "".join(
        f'<rect class="thing" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" rx="2"/>'
        for x, y in map(_spot, step["things"])
    )
    arrows = "".join(
        _arrow(
            spots[i],
            spots[j],
            f"{film['agents'][i]} tells {film['agents'][j]}",
            width=1.4,
            opacity=0.2 + 0.7 * probability,
            bend=6,
        )
        for i, j, probability in step["links"]
    )
    field = (
        f'<rect class="field" x="{_MARGIN}" y="{_MARGIN}" width="{_SIDE - 2 * _MARGIN}" '
        f'height="{_SIDE - 2 * _MARGIN}" rx="4"/>'
    )
    agents = "".join(_agent(spot, name, 8) for spot, name in zip(spots, film["agents"], strict=True))
    return _svg(_SIDE, _SIDE, f"{len(step['links'])} messages", field + things + arrows + agents, "frame")


def _spot(place: list[float]) -> tuple[float, float]:
    size = _SIDE - 2 * _MARGIN
    return _MARGIN + place[0] * size, _MARGIN + (1 - place[1]) * size


def _agent(spot: tuple[float, float], name: str, radius: float = 13) -> str:
    x, y = spot
    return (
        f'<circle class="agent" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{radius * 0.95:.1f}">{escape(name)}</text>'
    )


def _arrow(
    start: tuple[float, float], end: tuple[float, float], title: str, *, width: float, opacity: float, bend: float
) -> str:
    """Return a line that bends to its left, so that both directions of a pair can be seen, with a head near its end."""
    (x0, y0), (x1, y1) = start, end
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    bent_x = (x0 + x1) / 2 + bend * (y1 - y0) / length
    bent_y = (y0 + y1) / 2 - bend * (x1 - x0) / length
    at = max(0.5, 1 - 17 / length)  # outside of the receiver's circle
    x = (1 - at) ** 2 * x0 + 2 * at * (1 - at) * bent_x + at**2 * x1
    y = (1 - at) ** 2 * y0 + 2 * at * (1 - at) * bent_y + at**2 * y1
    turn = math.degrees(math.atan2(y1 - bent_y, x1 - bent_x))
    size = 3 + width
    return (
        f'<g class="link" opacity="{min(opacity, 1):.2f}"><title>{escape(title)}</title>'
        f'<path d="M{x0:.1f} {y0:.1f}Q{bent_x:.1f} {bent_y:.1f} {x1:.1f} {y1:.1f}" stroke-width="{width:.1f}"/>'
        f'<polygon points="0,0 {-size:.1f},{size * 0.6:.1f} {-size:.1f},{-size * 0.6:.1f}" '
        f'transform="translate({x:.1f} {y:.1f}) rotate({turn:.0f})"/></g>'
    )


def _svg(width: int, height: int, title: str, body: str, kind: str) -> str:
    return (
        f'<svg class="film {kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{body}</svg>'
    )

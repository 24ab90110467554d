"""Steps about where things are: columns, sides, what fits the screen, and whether a chart shows its numbers."""

from __future__ import annotations

from collections.abc import Callable

from .page import Missed, Page
from .seen import Box, Node

_TOLERANCE = 0.03  # of a chart's largest value, between a mark and its number
_SLACK = 2.0  # pixels


def _fits(page: Page, step: dict) -> None:
    """Nothing sticks out sideways: the page is no wider than the window."""
    if page.seen().width > page.width + _SLACK:
        raise Missed(f"the page is {page.seen().width:.0f} pixels wide in a window of {page.width}")


def _columns(page: Page, step: dict) -> None:
    """The elements that match {selector} stand in {count} columns."""
    boxes = _boxes(page, step["selector"])
    columns = _distinct([box[0] for box in boxes])
    if columns != step["count"]:
        raise Missed(f"{step['selector']} stand in {columns} columns, expected {step['count']}")


def _side(page: Page, step: dict) -> None:
    """{selector} is `left_of`, `above` or `inside` another element, or `in_window` without scrolling."""
    box = _box(page.one(step["selector"]))
    if step.get("in_window") and not (
        box[0] >= -_SLACK
        and box[1] >= -_SLACK
        and box[0] + box[2] <= page.width + _SLACK
        and box[1] + box[3] <= page.height + _SLACK
    ):
        raise Missed(f"{step['selector']} is not wholly in the window")
    for relation, holds in _RELATIONS.items():
        if relation in step and not holds(box, _box(page.one(step[relation]))):
            raise Missed(f"{step['selector']} is not {relation.replace('_', ' ')} {step[relation]}")


def _bars(page: Page, step: dict) -> None:
    """Bars {selector} have lengths in the proportion of {values} (in their order on the axis), from one base line.

    `along` says in which direction they grow: "up" (default) or "right".
    """
    boxes = sorted(_boxes(page, step["selector"]), key=lambda box: box[0 if step.get("along", "up") == "up" else 1])
    if len(boxes) != len(step["values"]):
        raise Missed(f"{step['selector']}: {len(boxes)} bars, expected {len(step['values'])}")
    upward = step.get("along", "up") == "up"
    lengths = [box[3] if upward else box[2] for box in boxes]
    bases = [box[1] + box[3] if upward else box[0] for box in boxes]
    longest, largest = max(lengths), max(step["values"])
    if longest < 40:
        raise Missed(f"the longest bar has {longest:.0f} pixels: nobody can read that")
    if max(bases) - min(bases) > _SLACK:
        raise Missed("the bars do not start from one line")
    for length, value in zip(lengths, step["values"], strict=True):
        if abs(length / longest - value / largest) > _TOLERANCE:
            raise Missed(
                f"a bar of {length / longest:.0%} of the longest stands for {value / largest:.0%} of the largest"
            )


def _points(page: Page, step: dict) -> None:
    """Points {selector} stand where {values} [[x, y], ...] are, on linear axes of any scale, y upwards."""
    boxes = _boxes(page, step["selector"])
    if len(boxes) != len(step["values"]):
        raise Missed(f"{step['selector']}: {len(boxes)} points, expected {len(step['values'])}")
    for axis, sign in ((0, 1.0), (1, -1.0)):
        places = sorted(sign * (box[axis] + box[axis + 2] / 2) for box in boxes)
        wanted = sorted(value[axis] for value in step["values"])
        span, reach = places[-1] - places[0], wanted[-1] - wanted[0]
        if span < 40:
            raise Missed(f"the points of {step['selector']} are too close to be read")
        for place, want in zip(places, wanted, strict=True):
            if abs((place - places[0]) / span - (want - wanted[0]) / reach) > _TOLERANCE:
                raise Missed(f"a point of {step['selector']} is not where its number says")
    _in_order(boxes, step)


def _in_order(boxes: list[Box], step: dict) -> None:
    """The ranks of x and y belong together as they do in the numbers."""
    seen = sorted((box[0] + box[2] / 2, -(box[1] + box[3] / 2)) for box in boxes)
    want = sorted((value[0], value[1]) for value in step["values"])
    for (_, a), (_, b) in zip(
        enumerate(_ranks(y for _, y in seen)), enumerate(_ranks(y for _, y in want)), strict=True
    ):
        if a != b:
            raise Missed(f"the points of {step['selector']} are in another order than their numbers")


def _ranks(values: object) -> list[int]:
    items = list(values)  # type: ignore[call-overload]
    order = sorted(range(len(items)), key=lambda i: items[i])
    ranks = [0] * len(items)
    for rank, i in enumerate(order):
        ranks[i] = rank
    return ranks


def _targets(page: Page, step: dict) -> None:
    """What can be clicked is at least {least} pixels wide and high (WCAG 2.2, 2.5.8: 24), text links aside."""
    for node in page.find("button, input:not([type=hidden]), select, [role=button], [role=tab]"):
        if node.box and not page.seen().hidden(node, page.width):
            small = min(node.box[2], node.box[3])
            if small < step.get("least", 24) - 0.5 and node.attributes.get("type") not in ("checkbox", "radio"):
                raise Missed(f"<{node.name}> is {node.box[2]:.0f} x {node.box[3]:.0f} pixels: too small to hit")


def _boxes(page: Page, selector: str) -> list[Box]:
    return [_box(node) for node in page.find(selector)]


def _box(node: Node) -> Box:
    if node.box is None:
        raise Missed(f"<{node.name}> is not displayed")
    return node.box


def _distinct(places: list[float]) -> int:
    groups = 0
    last = float("-inf")
    for place in sorted(places):
        groups += place - last > 8.0
        last = place
    return groups


_RELATIONS: dict[str, Callable[[Box, Box], bool]] = {
    "left_of": lambda a, b: a[0] + a[2] <= b[0] + _SLACK,
    "above": lambda a, b: a[1] + a[3] <= b[1] + _SLACK,
    "inside": lambda a, b: (
        a[0] >= b[0] - _SLACK
        and a[1] >= b[1] - _SLACK
        and a[0] + a[2] <= b[0] + b[2] + _SLACK
        and a[1] + a[3] <= b[1] + b[3] + _SLACK
    ),
}
GEOMETRY: dict[str, Callable[[Page, dict], None]] = {
    "fits": _fits,
    "columns": _columns,
    "side": _side,
    "bars": _bars,
    "points": _points,
    "targets": _targets,
}

"""What a judge of looks goes by: a page's texts and marks as laid out, its picture in small, and what moves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from . import colour
from .page import Page
from .png import Picture
from .seen import Box, Node, Seen

_MOST_PIXELS = 160  # of the longer side of the picture that is looked at
_SCREENS = 3  # of a long page, as many from the top
_LINE = 1.1  # height of a line of text by the size of its letters, at least
_MARKS = ("img", "svg", "canvas", "button", "input", "select", "textarea", "video", "hr")


@dataclass
class Run:
    """Text of one element: how much, how large, where, in which colour on which."""

    node: Node
    letters: int
    size: float
    boxes: list[Box]
    ratio: float  # contrast


@dataclass
class View:
    """All that is judged: the page as laid out, its texts, what stands on it (`marks`), its picture, and its motion."""

    seen: Seen
    width: float
    height: float
    runs: list[Run]
    marks: list[Node]
    picture: Picture
    moving: float  # share of what is visible that is animated without end although less motion is asked for


def view(page: Page) -> View:
    """Look at a page that is open; asks it for less motion for a moment."""
    seen = page.seen()
    height = min(max(seen.height, float(page.height)), float(_SCREENS * page.height))
    picture = page.pixels((0.0, 0.0, float(page.width), height), most=_MOST_PIXELS)
    runs = _runs(seen, page.width, height)
    texts = {run.node.number for run in runs}
    marks = [
        node
        for node in seen.nodes
        if node.kind == 1
        and (node.number in texts or node.name in _MARKS)
        and not seen.hidden(node, page.width)
        and (not inside(seen, node, ("svg", "button", "select")))
        and node.box is not None
        and node.box[1] < height
    ]
    wide = float(page.width)
    return View(seen, wide, height, runs, marks, picture, _moving(page, height))


def inside(seen: Seen, node: Node, names: Iterable[str]) -> bool:
    """Say whether an element stands in one of these names."""
    return any(each.name in names for each in seen.ancestors(node))


def _runs(seen: Seen, width: float, height: float) -> list[Run]:
    found = []
    for node in seen.nodes:
        if node.kind != 1 or node.box is None:
            continue
        own = [seen.nodes[n] for n in node.children if seen.nodes[n].kind == 3 and seen.nodes[n].box]
        text = re.sub(r"\s+", " ", "".join(each.value for each in own)).strip()
        boxes = [box for each in own for box in each.text_boxes if box[1] < height]
        if not text or not boxes or seen.hidden(node, width):
            continue
        size = float(node.style.get("font-size", "16px").removesuffix("px"))
        if node.name in ("text", "tspan"):  # a drawing that is made smaller takes its letters along
            size = min(size, max(min(box[2:]) for box in boxes) / _LINE)
        found.append(Run(node, len(text), size, boxes, _ratio(seen, node)))
    return found


def _ratio(seen: Seen, node: Node) -> float:
    """Return the contrast of an element's text with what the elements around it paint behind it."""
    behind: colour.RGBA = (255.0, 255.0, 255.0, 1.0)
    chain = [node, *seen.ancestors(node)]
    for each in reversed(chain):
        behind = colour.over(colour.parse(each.style.get("background-color", "")), behind)
        image = each.style.get("background-image", "none")
        if "gradient" in image:
            stops = [colour.parse(stop) for stop in re.findall(r"(?:rgba?|color)\([^()]*\)", image)]
            if stops:
                count = len(stops)
                mixed = tuple(sum(stop[i] for stop in stops) / count for i in range(4))
                behind = colour.over((mixed[0], mixed[1], mixed[2], mixed[3]), behind)
    ink = colour.parse(node.style.get("fill" if node.name in ("text", "tspan") else "color", ""))
    front = colour.over((*ink[:3], ink[3] * seen.opacity(node)), behind)
    return colour.contrast(front, behind)


def _moving(page: Page, height: float) -> float:
    page.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]})
    page.forget()
    seen, area = page.seen(), 0.0
    for node in seen.nodes:
        if node.kind == 1 and node.box and node.style.get("animation-name", "none") != "none":
            lasting = "infinite" in node.style.get("animation-iteration-count", "")
            if lasting and not seen.hidden(node, page.width):
                area = max(area, 0.1) + node.box[2] * node.box[3] / (page.width * height)
    page.call("Emulation.setEmulatedMedia", {"features": []})
    page.forget()
    return area

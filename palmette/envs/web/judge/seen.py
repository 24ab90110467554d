"""What is on a page at one moment, as the browser laid it out: read from its own snapshot, not through the page's code.

Lengths are CSS pixels from the top left of the page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

STYLES = (
    "display",
    "visibility",
    "opacity",
    "overflow-x",
    "overflow-y",
    "color",
    "fill",
    "background-color",
    "background-image",
    "font-size",
    "font-family",
    "font-weight",
    "line-height",
    "text-align",
    "position",
    "border-top-width",
    "border-top-color",
    "border-top-left-radius",
    "box-shadow",
    "animation-name",
    "animation-duration",
    "animation-iteration-count",
    "transition-duration",
    "clip-path",
    "cursor",
    "letter-spacing",
)
Box = tuple[float, float, float, float]  # x, y, width, height


@dataclass
class Node:
    """A node of the document; `box` and `style` are None and empty where nothing was laid out."""

    number: int
    parent: int
    kind: int  # 1 an element, 3 text
    name: str  # in lower case
    value: str
    backend: int
    attributes: dict[str, str]
    input_value: str | None = None
    checked: bool = False
    pseudo: bool = False
    children: list[int] = field(default_factory=list)
    box: Box | None = None
    style: dict[str, str] = field(default_factory=dict)
    text_boxes: list[Box] = field(default_factory=list)


class Seen:
    """All nodes of a page's own document (frames are not looked into), in document order."""

    def __init__(self, snapshot: dict, styles: tuple[str, ...] = STYLES) -> None:
        strings, document = snapshot["strings"], snapshot["documents"][0]
        self.title = strings[document["title"]] if document["title"] >= 0 else ""
        self.width = float(document.get("contentWidth", 0))
        self.height = float(document.get("contentHeight", 0))
        self.nodes = _nodes(document["nodes"], strings)
        self._by_backend = {node.backend: node.number for node in self.nodes}
        _lay_out(self.nodes, document["layout"], document["textBoxes"], strings, styles)

    def node(self, backend: int) -> Node | None:
        """Return the node that the browser calls by this number, or None."""
        number = self._by_backend.get(backend)
        return None if number is None else self.nodes[number]

    def subtree(self, node: Node) -> list[Node]:
        """Return a node and all below it, in document order."""
        found, waiting = [], [node.number]
        while waiting:
            number = waiting.pop()
            found.append(self.nodes[number])
            waiting += reversed(self.nodes[number].children)
        return found

    def ancestors(self, node: Node) -> list[Node]:
        """Return the elements around a node, the nearest first."""
        found = []
        while node.parent >= 0:
            node = self.nodes[node.parent]
            found.append(node)
        return found

    def text(self, node: Node) -> str:
        """Return the text that is laid out below a node: blocks apart by one blank, as `innerText` has it."""
        return re.sub(r"\s+", " ", self._text(node)).strip()

    def opacity(self, node: Node) -> float:
        """Return the opacity with which a node reaches the page, in [0, 1]."""
        product = 1.0
        for each in (node, *self.ancestors(node)):
            product *= _number(each.style.get("opacity", "1"), 1.0)
        return product

    def visible_box(self, node: Node) -> Box | None:
        """Return the part of a node's box that no clipping or scrolling element cuts off, or None."""
        box = node.box
        for each in self.ancestors(node):
            if box is None or each.name in ("body", "html"):
                break
            if each.box and ("visible" not in (each.style.get("overflow-x"), each.style.get("overflow-y"))):
                box = _common(box, each.box)
        return box if box and box[2] > 0.5 and box[3] > 0.5 else None

    def hidden(self, node: Node, width: float) -> str:
        """Return why nobody can see an element, as far as layout and style tell, or ""."""
        if node.box is None:
            return "is not displayed"
        if node.style.get("visibility") != "visible":
            return "has visibility " + node.style.get("visibility", "?")
        if self.opacity(node) < 0.1:
            return "is transparent"
        box = self.visible_box(node)
        if box is None:
            return "has no visible area"
        if box[0] + box[2] <= 0 or box[1] + box[3] <= 0 or box[0] >= width:
            return "is off the page"
        own = [each for each in self.subtree(node) if each.kind == 3 and each.value.strip() and each.box]
        if own and all(_number(self.nodes[each.parent].style.get("font-size", ""), 16.0) < 6.0 for each in own):
            return "has text too small to read"
        return ""

    def _text(self, node: Node) -> str:
        if node.kind == 3:
            return node.value if node.box and not node.pseudo else ""
        if node.name == "br":
            return " "
        inside = "".join(self._text(self.nodes[number]) for number in node.children if not self.nodes[number].pseudo)
        return inside if node.style.get("display", "inline") in ("inline", "contents") else f" {inside} "


def _nodes(table: dict, strings: list[str]) -> list[Node]:
    values = dict(zip(table["inputValue"]["index"], table["inputValue"]["value"], strict=True))
    areas = dict(zip(table["textValue"]["index"], table["textValue"]["value"], strict=True))
    checked = set(table["inputChecked"]["index"])
    pseudo = set(table["pseudoType"]["index"])
    found: list[Node] = []
    for number, parent in enumerate(table["parentIndex"]):
        pairs = [strings[each] if each >= 0 else "" for each in table["attributes"][number]]
        value = table["nodeValue"][number]
        held = values.get(number, areas.get(number, -1))
        node = Node(
            number=number,
            parent=parent,
            kind=table["nodeType"][number],
            name=strings[table["nodeName"][number]].lower(),
            value=strings[value] if value >= 0 else "",
            backend=table["backendNodeId"][number],
            attributes=dict(zip(pairs[::2], pairs[1::2], strict=True)),
            input_value=strings[held] if held >= 0 else None,
            checked=number in checked,
            pseudo=number in pseudo or (parent >= 0 and found[parent].pseudo),
        )
        found.append(node)
        if parent >= 0:
            found[parent].children.append(number)
    return found


def _lay_out(nodes: list[Node], layout: dict, texts: dict, strings: list[str], styles: tuple[str, ...]) -> None:
    for place, number in enumerate(layout["nodeIndex"]):
        node, bounds = nodes[number], layout["bounds"][place]
        if node.box is None:
            node.box = (bounds[0], bounds[1], bounds[2], bounds[3])
            held = layout["styles"][place]
            node.style = {name: strings[at] for name, at in zip(styles, held, strict=False) if at >= 0}
    for place, bounds in zip(texts["layoutIndex"], texts["bounds"], strict=True):
        nodes[layout["nodeIndex"][place]].text_boxes.append((bounds[0], bounds[1], bounds[2], bounds[3]))


def _common(a: Box, b: Box) -> Box | None:
    left, top = max(a[0], b[0]), max(a[1], b[1])
    right, bottom = min(a[0] + a[2], b[0] + b[2]), min(a[1] + a[3], b[1] + b[3])
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def _number(text: str, default: float) -> float:
    match = re.match(r"-?\d+(?:\.\d+)?", text)
    return float(match[0]) if match else default

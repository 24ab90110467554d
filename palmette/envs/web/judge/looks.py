"""How a page looks, as ten numbers in [0, 1] from its layout and its pixels; 1 is nothing to object to.

They are hygiene rather than taste: each falls when something is spoilt, none says that a page is beautiful. `SCORES`
has them by name; `judged` gives them all and their mean.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable

from . import colour
from .png import Picture
from .seen import Box, Node, Seen
from .view import Run, View, inside


def judged(v: View) -> dict[str, float]:
    """Return every score, and their mean as "overall"."""
    scores = {name: round(min(max(score(v), 0.0), 1.0), 4) for name, score in SCORES.items()}
    return {**scores, "overall": round(sum(scores.values()) / len(scores), 4)}


def contrast(v: View) -> float:
    """How far texts reach the contrast they need: 4.5, large ones 3 (WCAG 2.2, 1.4.3); half of it the worst tenth."""
    reached = [(min((run.ratio - 1.0) / ((3.0 if _is_large(run) else 4.5) - 1.0), 1.0), run.letters) for run in v.runs]
    return 0.5 * _mean(reached) + 0.5 * _low(reached) if reached else 0.0


def alignment(v: View) -> float:
    """Share of the marks that have a left edge, middle or right edge in common with two others.

    After Ngo, Teo, Byrne, "Modelling interface aesthetics" (2003), simplicity: few alignment points.
    """
    if len(v.marks) < 4:
        return 1.0
    edges = [
        [box[0] for box in map(_box, v.marks)],
        [box[0] + box[2] for box in map(_box, v.marks)],
        [box[0] + box[2] / 2 for box in map(_box, v.marks)],
    ]
    common = [_company(places) for places in edges]
    left = sum(others >= 2 for others in common[0]) / len(v.marks)
    any_edge = sum(max(others) >= 2 for others in zip(*common, strict=True)) / len(v.marks)
    return 0.4 * left + 0.6 * any_edge


def rhythm(v: View) -> float:
    """How regular the gaps between neighbours are, within their row or column.

    After Ngo, Teo, Byrne (2003), regularity; half of it is how many gaps are whole multiples of 4 pixels.
    """
    even, on_grid = [], []
    for gaps in _gaps(v):
        typical = sorted(gaps)[len(gaps) // 2]
        on_grid += [abs(gap / 4 - round(gap / 4)) < 0.13 for gap in gaps]
        if len(gaps) > 1:
            even += [math.exp(-abs(gap - typical) / (abs(typical) + 8.0)) for gap in gaps]
    if not on_grid:
        return 1.0
    return 0.5 * (sum(even) / len(even) if even else 1.0) + 0.5 * sum(on_grid) / len(on_grid)


def type_scale(v: View) -> float:
    """Few sizes and families, and steps between sizes that can be seen.

    After Bringhurst, "The Elements of Typographic Style" (chapter 3: a scale; chapter 6: few faces): at most 6 sizes,
    2 families, neighbours in the scale at least 8 % apart, and a largest size that leads.
    """
    if not v.runs:
        return 0.0
    letters: Counter[float] = Counter()
    for run in v.runs:
        letters[round(run.size, 1)] += run.letters
    sizes = sorted(letters)
    few = min(1.0, 6.0 / len(sizes))
    clear = [b / a >= 1.08 for a, b in itertools.pairwise(sizes)]
    families = {run.node.style.get("font-family", "").split(",")[0] for run in v.runs}
    body = letters.most_common(1)[0][0]
    leads = min(1.0, (sizes[-1] / body) / 1.6)
    steps = sum(clear) / len(clear) if clear else 0.5
    return 0.35 * few + 0.2 * steps + 0.25 * min(1.0, 2.0 / len(families)) + 0.2 * leads


def reading(v: View) -> float:
    """Sizes that can be read, lines of 45 to 90 letters and 1.2 to 1.8 of the size apart, where text runs on.

    Sizes: at least 12 pixels; lines: Bringhurst 2.1.2 and WCAG 2.2, 1.4.8 (at most 80) and 1.4.12.
    """
    sizes = [(min(1.0, max(0.0, (run.size - 6.0) / 6.0)), run.letters) for run in v.runs]
    lines: list[tuple[float, float]] = []
    for run in v.runs:
        rows = _rows(run.boxes)
        if len(rows) < 2 and run.letters < 90:
            continue
        length = run.letters / max(len(rows), 1)
        fits = 1.0 if length <= 90 else max(0.0, 1.0 - (length - 90) / 90)
        tall = [b - a for a, b in itertools.pairwise(rows)]
        pace = (sum(tall) / len(tall) / run.size) if tall else 1.4
        airy = 1.0 if 1.2 <= pace <= 1.85 else max(0.0, 1.0 - 3.0 * max(1.2 - pace, pace - 1.85))
        lines.append((0.5 * fits + 0.5 * airy, run.letters))
    legible = 0.5 * _mean(sizes) + 0.5 * _low(sizes) if sizes else 0.0
    return 0.6 * legible + 0.4 * (_mean(lines) if lines else 1.0)


def harmony(v: View) -> float:
    """How near the hues are to one harmonic template (Cohen-Or et al. 2006), and that not everything is loud."""
    weights: defaultdict[int, float] = defaultdict(float)
    loud, count = 0.0, 0
    for pixel, often in Counter(pixel for row in v.picture.rows for pixel in row).items():
        degree, chroma = colour.hue(pixel)
        count += often
        if chroma > 0.12:
            weights[int(degree) // 6 * 6] += chroma * often
            loud += chroma * often
    present = {degree: weight for degree, weight in weights.items() if weight > 0.01 * sum(weights.values())}
    kinds = len({degree // 30 for degree in present})
    quiet = 1.0 - max(0.0, loud / max(count, 1) - 0.45) / 0.55
    return 0.5 * max(0.0, 1.0 - colour.discord(present) / 30.0) + 0.3 * min(1.0, 5.0 / max(kinds, 1)) + 0.2 * quiet


def balance(v: View) -> float:
    """How near the middle of what is drawn is to the middle of the page, sideways (Ngo, Teo, Byrne 2003, balance)."""
    ink = _ink(v.picture)
    total = sum(map(sum, ink))
    if not total:
        return 0.0
    middle = sum(x * value for row in ink for x, value in enumerate(row)) / total / max(v.picture.width - 1, 1)
    return 1.0 - min(1.0, max(0.0, abs(middle - 0.5) - 0.05) / 0.3)


def overflow(v: View) -> float:
    """Nothing sticks out sideways, no text is cut off, none lies over another."""
    beyond = min(1.0, max(0.0, v.seen.width - v.width - 1.0) / (0.25 * v.width))
    boxes = [(box, run) for run in v.runs for box in run.boxes]
    area = sum(box[2] * box[3] for box, _ in boxes) or 1.0
    cut = sum(_cut(v.seen, run.node, box) for box, run in boxes) / area
    over = _overlaps([box for box, _ in boxes]) / area
    return 1.0 - min(1.0, 0.5 * (beyond > 0) + 0.5 * beyond) * 0.6 - min(0.4, 2.0 * cut) - min(0.6, 3.0 * over)


def density(v: View) -> float:
    """Neither empty nor crowded: the share of small fields with something in them is between 12 and 70 %.

    After Ngo, Teo, Byrne (2003), density, with a range instead of one optimum; and margins at both sides are no crowd.
    """
    ink = _ink(v.picture)
    step = 5
    fields = [
        any(ink[y][x] > 0.06 for y in range(top, min(top + step, v.picture.height)) for x in range(left, right))
        for top in range(0, v.picture.height, step)
        for left, right in ((x, min(x + step, v.picture.width)) for x in range(0, v.picture.width, step))
    ]
    share = sum(fields) / max(len(fields), 1)
    gaps = [_gap_below(box, v) for box in map(_box, v.marks)]
    near = sum(gap < 2.0 for gap in gaps) / max(len(gaps), 1)
    full = 1.0 if 0.12 <= share <= 0.7 else max(0.0, 1.0 - 5.0 * max(0.12 - share, (share - 0.7) / 3.0))
    letters = sorted((box[0], box[0] + box[2]) for run in v.runs for box in run.boxes if box[2] > 2)
    margin = min((a for a, _ in letters), default=0.0) >= min(8.0, v.width / 40)
    return 0.6 * full + 0.25 * (1.0 - near) + 0.15 * margin


def consistency(v: View) -> float:
    """Elements of one kind look alike: two looks at most among buttons, headings of a level, siblings of one class."""
    kinds: defaultdict[tuple, list[tuple]] = defaultdict(list)
    for node in v.seen.nodes:
        if node.kind != 1 or node.box is None or v.seen.hidden(node, v.width) or inside(v.seen, node, ("svg",)):
            continue
        style = node.style
        look = tuple(style.get(key) for key in ("font-size", "font-family", "border-top-left-radius", "font-weight"))
        if node.name in ("button", "h2", "h3", "h4", "p", "li", "td", "th", "input"):
            kinds[node.name, ""].append(look)
        elif node.attributes.get("class"):
            kinds[node.name, node.attributes["class"]].append((*look, style.get("background-color")))
        elif node.name in ("section", "article", "figure"):
            kinds[node.name, str(node.parent)].append((*look, style.get("background-color")))
    told = [(min(1.0, 2.0 / len(set(looks))), len(looks)) for looks in kinds.values() if len(looks) > 1]
    return _mean(told) if told else 1.0


def motion(v: View) -> float:
    """How little moves without end for people who asked for less motion (WCAG 2.2, 2.2.2; prefers-reduced-motion)."""
    return 1.0 - min(1.0, 2.0 * v.moving)


SCORES: dict[str, Callable[[View], float]] = {
    "contrast": contrast,
    "alignment": alignment,
    "rhythm": rhythm,
    "type_scale": type_scale,
    "reading": reading,
    "harmony": harmony,
    "balance": balance,
    "overflow": overflow,
    "density": density,
    "consistency": consistency,
    "motion": motion,
}


def _is_large(run: Run) -> bool:
    """Large is 24 pixels, or 18.66 in bold (WCAG 2.2, "large scale")."""
    bold = run.node.style.get("font-weight", "400").isdigit() and int(run.node.style.get("font-weight", "400")) >= 700
    return run.size >= 24 or (run.size >= 18.66 and bold)


def _gaps(v: View) -> list[list[float]]:
    """Return the gaps between neighbouring children, of every element that stacks or lines up at least two of them."""
    found = []
    for node in v.seen.nodes:
        if node.kind != 1 or inside(v.seen, node, ("svg",)) or node.name == "svg":
            continue
        boxes = [
            box
            for n in node.children
            if (child := v.seen.nodes[n]).kind == 1
            and (box := child.box)
            and box[2] > 1
            and box[3] > 1
            and child.style.get("position") not in ("absolute", "fixed")
            and not child.style.get("display", "").startswith(("inline", "table"))
        ]
        down = [b[1] - a[1] - a[3] for a, b in itertools.pairwise(boxes) if b[1] >= a[1] + a[3] - 1]
        across = [b[0] - a[0] - a[2] for a, b in itertools.pairwise(boxes) if b[1] < a[1] + a[3] - 1]
        found += [gaps for gaps in (down, across) if gaps]
    return found


def _gap_below(box: Box, v: View) -> float:
    """Return how far below a mark the next one is that stands under it."""
    below = [
        other[1] - box[1] - box[3]
        for other in map(_box, v.marks)
        if other[1] > box[1] + 0.5 * box[3] and other[0] < box[0] + box[2] and box[0] < other[0] + other[2]
    ]
    return min(below, default=99.0)


def _cut(seen: Seen, node: Node, box: Box) -> float:
    """Return how much of a text's area an element around it cuts off."""
    lost = 0.0
    for each in (node, *seen.ancestors(node)):
        if each.box and each.style.get("overflow-x") in ("hidden", "clip"):
            right = max(0.0, box[0] + box[2] - each.box[0] - each.box[2]) * box[3]
            lower = max(0.0, box[1] + box[3] - each.box[1] - each.box[3]) * box[2]
            lost = max(lost, min(box[2] * box[3], right + lower))
    return lost


def _overlaps(boxes: list[Box]) -> float:
    """Return the area in which two texts lie over one another."""
    total, ordered = 0.0, sorted(boxes, key=lambda box: box[1])
    for i, a in enumerate(ordered[:600]):
        for b in ordered[i + 1 : i + 60]:
            if b[1] > a[1] + a[3]:
                break
            wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
            high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
            if wide > 1 and high > 0.35 * min(a[3], b[3]):  # lines set tight touch
                total += wide * high
    return total


def _ink(picture: Picture) -> list[list[float]]:
    """Return how far each pixel is from the commonest colour, in [0, 1]."""
    counts = Counter(pixel for row in picture.rows for pixel in row)
    red, green, blue = counts.most_common(1)[0][0]
    far = {p: max(abs(p[0] - red), abs(p[1] - green), abs(p[2] - blue)) / 255 for p in counts}
    return [[far[p] for p in row] for row in picture.rows]


def _rows(boxes: list[Box]) -> list[float]:
    """Return where the lines of a text begin, downwards."""
    found: list[float] = []
    for top in sorted(box[1] for box in boxes):
        if not found or top - found[-1] > 3:
            found.append(top)
    return found


def _company(places: list[float]) -> list[int]:
    """Return for each place how many others are within a pixel."""
    return [sum(abs(other - place) <= 1.0 for other in places) - 1 for place in places]


def _box(node: Node) -> Box:
    assert node.box is not None
    return node.box


def _mean(pairs: list[tuple[float, int]] | list[tuple[float, float]]) -> float:
    return sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs)


def _low(pairs: list[tuple[float, int]]) -> float:
    """Return the mean of the worst tenth, by weight."""
    left = quota = max(0.1 * sum(weight for _, weight in pairs), 1e-9)
    total = 0.0
    for value, weight in sorted(pairs):
        part = min(left, weight)
        total += value * part
        left -= part
    return total / quota

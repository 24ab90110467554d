"""Charts that show given numbers, and slides: what is drawn is measured, and drawn again from other numbers."""

from __future__ import annotations

from collections.abc import Sequence

from palmette.envs.terminal.goals import Names
from palmette.envs.terminal.job import numbers
from palmette.envs.web.brief import Brief, document
from palmette.envs.web.plan import AXE, QUIET, SOUND, Goal, Step, opened, press, see

_OPEN = opened("index.html")
_PHONE = Goal(name="on a phone", size="phone", steps=[_OPEN, *SOUND, QUIET])
_READ = """\
fetch("{file}").then(answer => answer.text()).then(text => {{
  const rows = text.trim().split("\\n").slice(1).map(line => line.split(","));
"""
_CHART = """\
figure { margin: 0; background: #fff; border-radius: 8px; padding: 24px; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 16px sans-serif; fill: #1f2933; }
@media (max-width: 600px) { figure { padding: 8px; } svg text { font-size: 30px; } }
"""
_MAKE = """\
  const svg = document.querySelector("svg");
  function add(name, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
  }
"""


def columns(n: Names) -> Brief:
    """Upright bars from a table."""
    title, file = n.word(), f"{n.word()}.csv"
    first, second = _table(n, 6), _table(n, 4)
    script = (
        _READ.format(file=file)
        + _MAKE
        + """\
  const most = Math.max(...rows.map(row => +row[1])), step = 800 / rows.length;
  rows.forEach(([label, value], i) => {
    const high = 300 * value / most, x = i * step + step / 2;
    add("rect", { class: "bar", x: x - step / 3, width: step * 2 / 3, y: 340 - high, height: high, fill: "#0b5cad" });
    add("text", { class: "value", x, y: 330 - high, "text-anchor": "middle" }, value);
    add("text", { class: "label", x, y: 370, "text-anchor": "middle" }, label);
  });
});
"""
    )
    body = f'<h1>{title}</h1>\n<figure><svg viewBox="0 0 800 390" role="img" aria-label="{title}"></svg></figure>\n'

    def shows(rows: Sequence[tuple[str, int]]) -> list[Step]:
        return [
            {"do": "bars", "selector": ".bar", "values": [value for _, value in rows]},
            see(".label", texts=[label for label, _ in rows]),
            see(".value", texts=[str(value) for _, value in rows]),
        ]

    steps = [_OPEN, {"do": "title", "text": title}, see("h1", text=title), *shows(first), AXE, QUIET]
    return Brief(
        family="columns",
        user=f"Show me the numbers in {file} as columns, so that I see at once which is the largest; every column with "
        "its name and number.",
        design=f"Design a column chart {title} of {file}: columns on one base line, heights in proportion and "
        f"starting at "
        "zero, the number above and the name below each, in the order of the file.",
        implementation=f"Implement a column chart in index.html, title and h1 {title}, that fetches {file} (a header, "
        "then label,value) when it is opened. Lengths are proportional to values, from zero.",
        contract=(
            f"It is index.html; title and h1 are {title}; it reads {file} when it is opened.",
            "Columns have the class bar, their names the class label, their numbers the class value, each in the order "
            "of the file.",
        ),
        given={file: _csv(first)},
        reference={"index.html": document(title, body, style=_CHART, script=script)},
        goals=[
            Goal(name="chart", steps=steps),
            Goal(name="other numbers", steps=[_OPEN, *shows(second), QUIET], instead={file: _csv(second)}),
            _PHONE,
        ],
    )


def ranking(n: Names) -> Brief:
    """Lying bars in the order of their length."""
    title, file = n.word(), f"{n.word()}.csv"
    first, second = _table(n, 7), _table(n, 5)
    script = (
        _READ.format(file=file)
        + """\
  rows.sort((a, b) => b[1] - a[1]);
  const list = document.querySelector("ol");
  for (const [label, value] of rows) {
    const row = document.createElement("li");
    row.innerHTML = '<span class="label"></span><span class="track"><span class="bar"></span></span>' +
      '<span class="value"></span>';
    row.querySelector(".label").textContent = label;
    row.querySelector(".value").textContent = value;
    row.querySelector(".bar").style.width = 100 * value / rows[0][1] + "%";
    list.append(row);
  }
});
"""
    )
    style = """\
ol { list-style: none; padding: 0; }
li { display: grid; grid-template-columns: 112px 1fr 48px; gap: 16px; align-items: center; margin-bottom: 16px; }
.track { display: block; height: 28px; background: #e4e7eb; }
.bar { display: block; height: 28px; background: #0b5cad; }
"""

    def shows(rows: Sequence[tuple[str, int]]) -> list[Step]:
        ranked = sorted(rows, key=lambda row: -row[1])
        return [
            {"do": "bars", "selector": ".bar", "values": [value for _, value in ranked], "along": "right"},
            see(".label", texts=[label for label, _ in ranked]),
            see(".value", texts=[str(value) for _, value in ranked]),
        ]

    steps = [_OPEN, {"do": "title", "text": title}, see("h1", text=title), *shows(first), AXE, QUIET]
    return Brief(
        family="ranking",
        user=f"Who leads in {file}? Show it as bars, the largest first, with names and numbers.",
        design=f"Design a ranking {title} of {file}: lying bars from one line at the left, the largest on top, the "
        f"name "
        "before and the number after each.",
        implementation=f"Implement a bar ranking in index.html, title and h1 {title}, that fetches {file} (a header, "
        f"then "
        "label,value) when it is opened and sorts by value, descending. Widths are proportional to values, from zero.",
        contract=(
            f"It is index.html; title and h1 are {title}; it reads {file} when it is opened.",
            "Bars have the class bar, their names the class label, their numbers the class value.",
        ),
        given={file: _csv(first)},
        reference={"index.html": document(title, f"<h1>{title}</h1>\n<ol></ol>\n", style=style, script=script)},
        goals=[
            Goal(name="chart", steps=steps),
            Goal(name="other numbers", steps=[_OPEN, *shows(second), QUIET], instead={file: _csv(second)}),
            _PHONE,
        ],
    )


def scatter(n: Names) -> Brief:
    """Points in a plane, with both axes named."""
    title, file, across, up = n.word(), f"{n.word()}.csv", n.word(), n.word()
    first, second = _plane(n, 9), _plane(n, 6)
    script = (
        _READ.format(file=file)
        + _MAKE
        + """\
  const points = rows.map(row => row.map(Number));
  const range = k => [Math.min(...points.map(p => p[k])), Math.max(...points.map(p => p[k]))];
  const [left, right] = range(0), [low, high] = range(1);
  add("path", { d: "M70 20V350H790", fill: "none", stroke: "#52606d" });
  for (const [x, value] of [[100, left], [760, right]]) add("text", { x, y: 385, "text-anchor": "middle" }, value);
  for (const [y, value] of [[335, low], [55, high]]) add("text", { x: 62, y, "text-anchor": "end" }, value);
  for (const [x, y] of points) {
    const cx = 100 + 660 * (x - left) / (right - left), cy = 330 - 280 * (y - low) / (high - low);
    add("circle", { class: "point", cx, cy, r: 7, fill: "#0b5cad" });
  }
});
"""
    )
    body = (
        f'<h1>{title}</h1>\n<figure><svg viewBox="0 0 800 400" role="img" aria-label="{title}">'
        f'<text id="x" x="425" y="385" text-anchor="middle">{across}</text>'
        f'<text id="y" x="40" y="190" text-anchor="middle" transform="rotate(-90 40 190)">{up}</text></svg></figure>\n'
    )

    def shows(points: list[list[int]]) -> Step:
        return {"do": "points", "selector": ".point", "values": points}

    steps = [_OPEN, {"do": "title", "text": title}, see("h1", text=title), shows(first), see("#x", text=across)]
    return Brief(
        family="scatter",
        user=f"Plot the pairs in {file} as dots, so that I see how {across} and {up} go together.",
        design=f"Design a scatter plot {title} of {file}: a dot for each row, {across} from left to right and {up} "
        "upwards, both axes named, scales linear, nothing cut off.",
        implementation=f"Implement a scatter plot in index.html, title and h1 {title}, that fetches {file} (a header, "
        f"then x,y) when it is opened; both scales linear, y upwards.",
        contract=(
            f"It is index.html; title and h1 are {title}; it reads {file} when it is opened.",
            f"Dots have the class point; the axes are named by #x ({across}) and #y ({up}).",
        ),
        given={file: _plane_csv(across, up, first)},
        reference={"index.html": document(title, body, style=_CHART, script=script)},
        goals=[
            Goal(name="plot", steps=[*steps, see("#y", text=up), AXE, QUIET]),
            Goal(
                name="other points", steps=[_OPEN, shows(second), QUIET], instead={file: _plane_csv(across, up, second)}
            ),
            _PHONE,
        ],
    )


def slides(n: Names) -> Brief:
    """A deck that is turned by keys and remembers where it is."""
    title, heads, lines = n.word(), n.words(4), [n.words(2) for _ in range(4)]
    sections = "".join(
        f'<section class="slide"{"" if i == 0 else " hidden"}>\n<h2>{head}</h2>\n<ul>\n'
        + "".join(f"<li>{line}</li>\n" for line in lines[i])
        + "</ul>\n</section>\n"
        for i, head in enumerate(heads)
    )
    script = """\
const slides = [...document.querySelectorAll(".slide")];
let at = Math.min(Math.max(parseInt(location.hash.slice(1)) || 1, 1), slides.length) - 1;
function show(i) {
  at = Math.min(Math.max(i, 0), slides.length - 1);
  slides.forEach((slide, k) => { slide.hidden = k !== at; });
  document.getElementById("count").textContent = at + 1 + " / " + slides.length;
  history.replaceState(null, "", "#" + (at + 1));
}
document.addEventListener("keydown", event => {
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: slides.length - 1 }[event.key];
  if (to !== undefined) show(to);
});
show(at);
"""
    style = """\
body { background: #102a43; color: #f0f4f8; font-size: 28px; line-height: 40px; }
h1 { font-size: 24px; line-height: 32px; color: #bcccdc; }
.slide { min-height: 60vh; }
h2 { font-size: 64px; line-height: 72px; margin-bottom: 32px; }
li { margin-bottom: 16px; }
#count { color: #bcccdc; }
@media (max-width: 600px) { h2 { font-size: 40px; line-height: 48px; } }
"""
    body = f'<h1>{title}</h1>\n{sections}<p id="count"></p>\n'

    def on(i: int) -> list[Step]:
        return [
            see(".slide", only_visible=True, count=1, contains=[heads[i], *lines[i]]),
            see("h2", only_visible=True, count=1, text=heads[i]),
            see("#count", text=f"{i + 1} / 4"),
        ]

    steps = [_OPEN, {"do": "title", "text": title}, *on(0), press("ArrowLeft"), *on(0)]
    steps += [press("ArrowRight"), *on(1), press("ArrowRight", times=5), *on(3), press("ArrowLeft"), *on(2)]
    steps += [
        {"do": "at", "path": "index.html#3"},
        {"do": "reload"},
        *on(2),
        press("Home"),
        *on(0),
        press("End"),
        *on(3),
    ]
    fit: Step = {"do": "side", "selector": "#count", "in_window": True}
    told = "; ".join(f"{head}: {', '.join(lines[i])}" for i, head in enumerate(heads))
    return Brief(
        family="slides",
        user=f"Make me four slides called {title} that I can turn with the arrow keys and that stay where they are "
        f"when "
        "I reload.",
        design=f"Design a deck {title} for a projector: one slide at a time, a large head, two points below it, and "
        f"the "
        "number of the slide always in sight. Arrows turn, Home and End jump, and it stops at both ends.",
        implementation=f"Implement a slide deck in index.html, title {title}: sections of class slide of which one is "
        "displayed, keys ArrowLeft, ArrowRight, Home, End, the number of the slide in the URL's fragment.",
        contract=(
            f"It is index.html with the title {title}.",
            f"The slides (class slide, head in h2, points in li) are {told}.",
            "#count says for example 2 / 4, and slide 2 is index.html#2.",
        ),
        reference={"index.html": document(title, body, style=style, script=script)},
        goals=[
            Goal(name="slides", steps=[*steps, fit, AXE, QUIET]),
            Goal(name="on a phone", size="phone", steps=[_OPEN, *SOUND, *on(0), QUIET]),
        ],
    )


def _table(n: Names, count: int) -> list[tuple[str, int]]:
    return list(zip(n.words(count), numbers(n.rng, count, 12, 99), strict=True))


def _csv(rows: Sequence[tuple[str, int]]) -> str:
    return "label,value\n" + "".join(f"{label},{value}\n" for label, value in rows)


def _plane(n: Names, count: int) -> list[list[int]]:
    pairs = zip(numbers(n.rng, count, 1, 60), numbers(n.rng, count, 100, 900), strict=True)
    return [list(pair) for pair in pairs]


def _plane_csv(across: str, up: str, points: list[list[int]]) -> str:
    return f"{across},{up}\n" + "".join(f"{x},{y}\n" for x, y in points)

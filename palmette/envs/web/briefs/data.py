"""Pages that work on a table of data: one that sorts and filters it, one that sums it up in tiles and two charts."""

from __future__ import annotations

from collections.abc import Sequence

from palmette.envs.terminal.goals import Names
from palmette.envs.terminal.job import numbers
from palmette.envs.web.brief import Brief, document
from palmette.envs.web.briefs.components import ON_A_PHONE
from palmette.envs.web.plan import AXE, QUIET, SOUND, Goal, Step, click, opened, see, typed

_OPEN = opened("index.html")
_Rows = list[tuple[str, int, int]]
_READ = """\
fetch("%s").then(answer => answer.text()).then(text => {
  const [names, ...rows] = text.trim().split("\\n").map(line => line.split(","));
"""


def table(n: Names) -> Brief:
    """A table that is sorted by its heads and narrowed by a search."""
    title, file, names = n.word(), f"{n.word()}.csv", n.words(3)
    first, second = _rows(n, 8), _rows(n, 5)
    part = min("aeiklmnoprstu", key=lambda letter: abs(sum(letter in row[0] for row in first) - 4))

    def rows(wanted: _Rows, of: int) -> list[Step]:
        texts = [[str(row[i]) for row in wanted] for i in range(3)]
        cells = [see(f"tbody td:nth-child({i + 1})", texts=texts[i]) for i in range(3)]
        return [*cells, see("#count", text=f"{len(wanted)} of {of}")]

    by_name, by_number = sorted(first), sorted(first, key=lambda row: row[1])
    hits = [row for row in reversed(by_number) if part in row[0]]
    steps = [
        _OPEN,
        {"do": "title", "text": title},
        see("h1", text=title),
        see("th button", texts=names),
        *rows(first, 8),
        see("th[aria-sort=ascending], th[aria-sort=descending]", count=0),
        click("th button", with_text=names[0]),
        *rows(by_name, 8),
        click("th button", with_text=names[1]),
        *rows(by_number, 8),
        see("th[aria-sort=ascending]", count=1, text=names[1]),
        click("th button", with_text=names[1]),
        *rows(by_number[::-1], 8),
        see("th[aria-sort=descending]", count=1, text=names[1]),
        typed("#q", part.upper()),
        *rows(hits, 8),
        AXE,
        QUIET,
    ]
    return Brief(
        family="table",
        user=f"Put {file} on a page {title} as a table that I can sort by clicking on a column, and search while "
        "typing.",
        design=f"Design a data table {title} of {file}: its columns in the order of the file, heads that sort and show "
        "which way (first upwards, then downwards, numbers by size), numbers flush right, a search field above that "
        "narrows the rows in any column, and how many of how many are shown.",
        implementation=f"Implement a data table in index.html, title and h1 {title}, that fetches {file} (a header, "
        "then a text and two numbers a line) when it is opened. A click on a head sorts ascending, a second one "
        "descending, numbers as numbers; filtering by substring ignores case and keeps the order.",
        contract=(
            f"It is index.html; title and h1 are {title}; it reads {file} when it is opened and shows its rows in "
            "order.",
            f"Each th holds a button with just the column's name ({', '.join(names)}) and, when sorted by, has "
            "aria-sort ascending or descending.",
            "The field is #q, and #count says for example 3 of 8.",
        ),
        given={file: _csv(names, first)},
        reference={"index.html": _table_page(title, file)},
        goals=[
            Goal(name="table", steps=steps),
            Goal(name="other rows", steps=[_OPEN, *rows(second, 5), QUIET], instead={file: _csv(names, second)}),
            ON_A_PHONE,
        ],
    )


def dashboard(n: Names) -> Brief:
    """Tiles and two charts of one measure of two, chosen above."""
    title, file, names = n.word(), f"{n.word()}.csv", n.words(3)
    first, second = _rows(n, 6), _rows(n, 5)

    def shows(rows: _Rows, measure: int) -> list[Step]:
        held = {row[0]: (row[1], row[2])[measure - 1] for row in rows}
        values, ranked = list(held.values()), sorted(held, key=lambda name: -held[name])
        return [
            see("#which button[aria-pressed=true]", count=1, text=names[measure]),
            see("#sum", text=str(sum(values))),
            see("#most", text=ranked[0]),
            see("#least", text=ranked[-1]),
            {"do": "bars", "selector": ".bar", "values": values},
            see(".label", texts=list(held)),
            {"do": "bars", "selector": ".rank", "values": [held[name] for name in ranked], "along": "right"},
            see(".name", texts=ranked),
            see(".value", texts=[str(held[name]) for name in ranked]),
        ]

    steps = [
        _OPEN,
        {"do": "title", "text": title},
        see("h1", text=title),
        see("#which button", texts=names[1:]),
        *shows(first, 1),
        {"do": "columns", "selector": ".tile", "count": 3},
        {"do": "side", "selector": "#columns", "left_of": "#ranking"},
        AXE,
        click("#which button", with_text=names[2]),
        *shows(first, 2),
        AXE,
        QUIET,
    ]
    phone = [
        _OPEN,
        *SOUND,
        {"do": "targets"},
        {"do": "side", "selector": "#columns", "above": "#ranking"},
        *shows(first, 1),
        QUIET,
    ]
    return Brief(
        family="dashboard",
        user=f"Give me one screen {title} on the numbers in {file}: what they sum up to, who has most and least, and "
        f"two charts; I want to switch between {names[1]} and {names[2]}.",
        design=f"Design a dashboard {title} of {file}: a switch for the measure, three tiles in a row (sum, who has "
        "most, who has least), below them a column chart in the order of the file beside a ranking of lying bars, the "
        "largest first; on a phone the charts stand one above the other.",
        implementation=f"Implement a dashboard in index.html, title and h1 {title}, that fetches {file} (a header, "
        "then label,number,number) when it is opened; two buttons with aria-pressed choose the measure, the first "
        "at the start, and tiles and charts follow. Lengths are proportional to values, from zero.",
        contract=(
            f"It is index.html; title and h1 are {title}; it reads {file} when it is opened.",
            f"The buttons are in #which and say {names[1]} and {names[2]}.",
            "The tiles (class tile) hold #sum, #most and #least, the last two with a name.",
            "#columns, left of #ranking on a wide screen and above it on a phone, has a bar (class bar) and its name "
            "(class label) a row; #ranking has for each a name (class name), a bar (class rank) and the number (class "
            "value).",
        ),
        given={file: _csv(names, first)},
        reference={"index.html": _dashboard_page(title, file)},
        goals=[
            Goal(name="dashboard", steps=steps),
            Goal(name="other numbers", steps=[_OPEN, *shows(second, 1), QUIET], instead={file: _csv(names, second)}),
            Goal(name="on a phone", size="phone", steps=phone),
        ],
    )


def _rows(n: Names, count: int) -> _Rows:
    """Return rows of which sorting by text would differ from sorting by number."""
    low, high = numbers(n.rng, 2, 6, 9), numbers(n.rng, count - 2, 10, 199)
    first = [*low, *high]
    n.rng.shuffle(first)
    return list(zip(n.words(count), first, numbers(n.rng, count, 12, 99), strict=True))


def _csv(names: Sequence[str], rows: _Rows) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in (names, *rows))


def _table_page(title: str, file: str) -> str:
    body = f"""\
<h1>{title}</h1>
<label for="q">Search</label>
<input id="q" autocomplete="off">
<p id="count" role="status"></p>
<table>
<thead><tr></tr></thead>
<tbody></tbody>
</table>
"""
    script = (
        _READ % file
        + """\
  const field = document.getElementById("q");
  let by = -1, way = 1;
  const heads = names.map((name, i) => {
    const head = document.createElement("th"), button = document.createElement("button");
    head.scope = "col";
    button.textContent = name;
    button.addEventListener("click", () => {
      way = by === i ? -way : 1;
      by = i;
      draw();
    });
    head.append(button);
    return head;
  });
  document.querySelector("thead tr").append(...heads);
  const compare = (a, b) => by === 0 ? a[0].localeCompare(b[0]) : a[by] - b[by];
  function draw() {
    const part = field.value.trim().toLowerCase();
    const shown = rows.filter(row => row.some(cell => cell.toLowerCase().includes(part)));
    if (by >= 0) shown.sort((a, b) => way * compare(a, b));
    heads.forEach((head, i) => {
      if (i === by) head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    document.querySelector("tbody").replaceChildren(...shown.map(row => {
      const line = document.createElement("tr");
      for (const cell of row) line.insertCell().textContent = cell;
      return line;
    }));
    document.getElementById("count").textContent = shown.length + " of " + rows.length;
  }
  field.addEventListener("input", draw);
  draw();
});
"""
    )
    style = """\
label { display: block; margin-bottom: 8px; }
#q { width: 100%; margin-bottom: 16px; }
table { width: 100%; border-collapse: collapse; background: #fff; border-radius: 8px; overflow: hidden; }
th { padding: 0; background: #e4e7eb; }
th button { width: 100%; padding: 8px 16px; background: none; color: #1f2933; font-weight: bold; text-align: left; }
th button::after { content: "\\2195"; margin-left: 8px; color: #52606d; }
th[aria-sort=ascending] button::after { content: "\\2191"; }
th[aria-sort=descending] button::after { content: "\\2193"; }
td { padding: 8px 16px; border-top: 1px solid #cbd2d9; }
th + th button, td + td { text-align: right; font-variant-numeric: tabular-nums; }
@media (max-width: 600px) { th button, td { padding: 8px; } }
"""
    return document(title, body, style=style, script=script)


def _dashboard_page(title: str, file: str) -> str:
    tiles = "".join(
        f'<div class="tile">\n<h2>{head}</h2>\n<p id="{name}"></p>\n</div>\n'
        for head, name in (("Sum", "sum"), ("Most", "most"), ("Least", "least"))
    )
    body = f"""\
<h1>{title}</h1>
<div id="which" role="group" aria-label="measure"></div>
<div class="tiles">
{tiles}</div>
<div class="charts">
<section id="columns" aria-label="columns"></section>
<section id="ranking" aria-label="ranking"></section>
</div>
"""
    script = (
        _READ % file
        + """\
  const id = name => document.getElementById(name);
  function part(kind, text) {
    const node = document.createElement("span");
    node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  function group(kind, ...parts) {
    const node = part(kind);
    node.append(...parts);
    return node;
  }
  const buttons = names.slice(1).map((name, i) => {
    const button = document.createElement("button");
    button.textContent = name;
    button.addEventListener("click", () => draw(i + 1));
    return button;
  });
  id("which").append(...buttons);
  function draw(by) {
    const value = row => +row[by], ranked = [...rows].sort((a, b) => value(b) - value(a)), most = value(ranked[0]);
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i + 1 === by));
    id("sum").textContent = rows.reduce((sum, row) => sum + value(row), 0);
    id("most").textContent = ranked[0][0];
    id("least").textContent = ranked.at(-1)[0];
    id("columns").replaceChildren(...rows.map(row => {
      const bar = part("bar");
      bar.style.height = 208 * value(row) / most + "px";
      return group("column", bar, part("label", row[0]));
    }));
    id("ranking").replaceChildren(...ranked.map(row => {
      const bar = part("rank");
      bar.style.width = 100 * value(row) / most + "%";
      return group("row", part("name", row[0]), group("track", bar), part("value", row[by]));
    }));
  }
  draw(1);
});
"""
    )
    return document(title, body, style=_DASHBOARD, script=script)


_DASHBOARD = """\
main { max-width: 1120px; }
#which { display: flex; gap: 8px; margin-bottom: 24px; }
#which button { background: #d9e2ec; color: #1f2933; }
#which button[aria-pressed=true] { background: #0b5cad; color: #fff; }
.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: 24px; margin-bottom: 24px; }
.tile, section { background: #fff; border-radius: 8px; padding: 24px; }
.tile h2 { font-size: 18px; line-height: 28px; font-weight: normal; color: #52606d; }
.tile p { font-size: 32px; line-height: 40px; margin: 0; }
.charts { display: grid; grid-template-columns: 1fr 1fr; gap: 24px; }
#columns { display: flex; gap: 8px; align-items: flex-end; }
.column { flex: 1; display: flex; flex-direction: column; align-items: center; min-width: 0; }
.bar { width: 48px; max-width: 100%; background: #0b5cad; }
.label { margin-top: 8px; font-size: 14px; line-height: 20px; }
.row { display: grid; grid-template-columns: 112px 1fr 40px; gap: 16px; align-items: center; padding: 4px 0; }
.track { background: #e4e7eb; }
.rank { display: block; height: 24px; background: #0b5cad; }
.value { text-align: right; font-variant-numeric: tabular-nums; }
@media (max-width: 600px) {
  .tiles, .charts { grid-template-columns: 1fr; gap: 16px; }
  .tile, section { padding: 16px; }
  #columns { gap: 4px; }
  .label { height: 32px; font-size: 12px; line-height: 16px; overflow-wrap: anywhere; text-align: center; }
}
"""

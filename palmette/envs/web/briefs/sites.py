"""Sites of several pages with one style, a layout that follows the size of the screen, and something that works."""

from __future__ import annotations

from palmette.envs.terminal.goals import Names
from palmette.envs.terminal.job import numbers
from palmette.envs.web.brief import STYLE, Brief, document
from palmette.envs.web.plan import AXE, FITS, QUIET, SOUND, Goal, Step, click, opened, see

_SHEET = (
    STYLE
    + """\
nav { display: flex; gap: 24px; align-items: center; background: #102a43; }
nav { padding: 16px max(24px, calc(50% - 416px)); }
nav a { color: #f0f4f8; padding: 8px 0; }
nav a[aria-current] { color: #ffd166; }
#menu { display: none; }
.cards { display: grid; grid-template-columns: repeat(3, 1fr); gap: 24px; }
.card { background: #fff; border-radius: 8px; padding: 24px; }
h2 { font-size: 24px; line-height: 32px; margin-bottom: 8px; }
@media (max-width: 600px) {
  nav { flex-direction: column; align-items: flex-start; gap: 0; padding: 16px; }
  #menu { display: block; }
  nav.closed a { display: none; }
  .cards { grid-template-columns: 1fr; }
}
"""
)
_SHOP = """\
ul { list-style: none; padding: 0; margin-bottom: 24px; }
li { padding: 8px 0; border-bottom: 1px solid #cbd2d9; }
@media (min-width: 601px) { .cards { grid-template-columns: repeat(4, 1fr); } }
"""
_MENU = """\
const nav = document.querySelector("nav"), menu = document.getElementById("menu");
nav.classList.add("closed");
menu.addEventListener("click", () => {
  menu.setAttribute("aria-expanded", !nav.classList.toggle("closed"));
});
"""


def studio(n: Names) -> Brief:
    """Three pages with one navigation that folds on a phone, and cards in columns."""
    files, names = [f"{n.word()}.html" for _ in range(2)], n.words(3)
    paths, heads = ["index.html", *files], n.words(3)
    cards = list(zip(n.words(6), n.words(6), strict=True))
    grid = "".join(f'<article class="card">\n<h2>{head}</h2>\n<p>{text}</p>\n</article>\n' for head, text in cards)
    bodies = [f'<div class="cards">\n{grid}</div>\n', f"<p>{n.word()}</p>\n", f"<p>{n.word()}</p>\n"]
    reference = {path: _page(names[i], heads[i], _nav(paths, names, i), bodies[i]) for i, path in enumerate(paths)} | {
        "style.css": _SHEET
    }
    steps: list[Step] = [opened("index.html")]
    for i in (1, 2, 0):
        steps += [
            click("nav a", with_text=names[i]),
            {"do": "at", "path": paths[i]},
            {"do": "title", "text": names[i]},
            see("h1", count=1, text=heads[i]),
            see("nav a", texts=names),
            see("nav a[aria-current=page]", count=1, text=names[i]),
        ]
    grid_steps = [
        opened("index.html"),
        see(".card h2", texts=[head for head, _ in cards]),
        see(".card p", texts=[text for _, text in cards]),
        {"do": "columns", "selector": ".card", "count": 3},
        {"do": "unseen", "selector": "#menu"},
        AXE,
        QUIET,
    ]
    phone = [
        opened("index.html"),
        *SOUND,
        {"do": "columns", "selector": ".card", "count": 1},
        {"do": "unseen", "selector": "nav a"},
        click("#menu"),
        see("#menu[aria-expanded=true]", count=1),
        AXE,
        see("nav a", texts=names),
        click("nav a", with_text=names[2]),
        {"do": "at", "path": paths[2]},
        FITS,
        AXE,
        QUIET,
    ]
    told = "; ".join(f"{path}: title {name}, h1 {head}" for path, name, head in zip(paths, names, heads, strict=True))
    listed = "; ".join(f"{head}: {text}" for head, text in cards)
    return Brief(
        family="studio",
        user="I need a small site of three pages that people can go between, with six cards on the first one. On a "
        "phone "
        "the menu should fold away behind a button.",
        design="Design a site of three pages with one bar of links on top that marks where one is. The first page "
        "has a "
        "grid of six cards, three columns on a wide screen, one on a phone; there the links fold behind a menu button.",
        implementation="Implement three static pages with one shared style.css: a nav with links (aria-current=page on "
        "its own), a grid of .card that collapses below 600 pixels, and a #menu button with aria-expanded that is "
        "displayed only there and shows and hides the links, which begin hidden.",
        contract=(
            f"The pages are {told}; each has the same nav with links to all three, called by their titles, in this "
            f"order.",
            f"The cards (class card, h2 and p) of index.html are {listed}.",
            "The button on phones is #menu with aria-expanded; it is not displayed on a wide screen.",
        ),
        reference=reference,
        goals=[
            Goal(name="pages", steps=[*steps, QUIET]),
            Goal(name="cards", steps=grid_steps),
            Goal(name="on a phone", size="phone", steps=phone),
        ],
        pages=paths,
    )


def shop(n: Names) -> Brief:
    """A catalogue and a basket on two pages, which share what is in it."""
    names, kinds = n.words(2), n.words(4)
    prices = numbers(n.rng, 4, 2, 40)
    paths, first, second = ["index.html", f"{n.word()}.html"], 1, 3

    def add(i: int) -> Step:
        return click("button", with_text=f"Add {kinds[i]}")

    def holds(*which: int) -> list[Step]:
        return [
            see("#rows li", count=len(which), texts=[f"{kinds[i]} {prices[i]} €" for i in which]),
            see("#sum", text=f"{sum(prices[i] for i in which)} €"),
            see("#count", text=str(len(which))),
        ]

    steps = [
        opened("index.html"),
        {"do": "title", "text": names[0]},
        see("#count", text="0"),
        see(".card", count=4),
        *(see(".card", with_text=f"{k} {p} € Add {k}", count=1) for k, p in zip(kinds, prices, strict=True)),
        *(add(first), add(second), add(first)),
        see("#count", text="3"),
        click("nav a", with_text=names[1]),
        {"do": "at", "path": paths[1]},
        see("h1", text=names[1]),
        *holds(first, second, first),
        {"do": "reload"},
        *holds(first, second, first),
        click("nav a", with_text=names[0]),
        see("#count", text="3"),
        add(0),
        click("nav a", with_text=names[1]),
        *holds(first, second, first, 0),
        AXE,
        click("#empty"),
        *holds(),
        QUIET,
    ]
    listed = ", ".join(f"{kind} ({price} €)" for kind, price in zip(kinds, prices, strict=True))
    phone = [
        opened("index.html"),
        *SOUND,
        {"do": "columns", "selector": ".card", "count": 1},
        {"do": "targets"},
        QUIET,
    ]
    return Brief(
        family="shop",
        user=f"I sell four things. Give me a page to choose them and another one, {names[1]}, that shows what I put in "
        "the basket and what it costs, also after a reload.",
        design=f"Design a shop of two pages: {names[0]} with four cards (name, price, a button to add it) and "
        f"{names[1]} "
        "with what is in the basket, line by line, its sum and a button to empty it. The number of things in the "
        "basket "
        "is on both pages. On a phone the cards stand in one column.",
        implementation="Implement two pages that share their state by localStorage; a thing that is added twice is two "
        "lines; the sum is of whole euros.",
        contract=(
            f"index.html has title and h1 {names[0]}, {paths[1]} has title and h1 {names[1]}; both have a nav with "
            f"links "
            "to both, called by their titles.",
            f"The things are {listed}; a card (class card) has an h2 with the name, then the price as in 5 €, then a "
            "button Add NAME.",
            "#count is how many things are in the basket, on both pages; in the basket #rows has a li NAME PRICE € a "
            "thing, in the order they were added, #sum says for example 12 €, and #empty empties it.",
        ),
        reference=_shop_files(paths, names, kinds, prices),
        goals=[Goal(name="shop", steps=steps), Goal(name="on a phone", size="phone", steps=phone)],
        pages=paths,
    )


def _nav(paths: list[str], names: list[str], at: int) -> str:
    links = "".join(
        f'<a href="{path}"{" aria-current=page" if i == at else ""}>{names[i]}</a>\n' for i, path in enumerate(paths)
    )
    return f'<nav aria-label="pages">\n{links}</nav>\n'


def _page(title: str, head: str, nav: str, body: str, *, own: str = "") -> str:
    """Return one page of a site whose style is in style.css."""
    button = "" if own else '<button id="menu" aria-expanded="false">Menu</button>\n'
    nav = nav.replace('aria-label="pages">\n', f'aria-label="pages">\n{button}')
    text = document(title, f"<h1>{head}</h1>\n{body}", script="" if own else _MENU)
    start, end = text.index("<style>"), text.index("</style>\n") + len("</style>\n")
    text = text[:start] + '<link rel="stylesheet" href="style.css">\n' + text[end:]
    text = text.replace("<body>\n", f"<body>\n{nav}")
    return text.replace("</main>\n", f"</main>\n{own}")


def _shop_files(paths: list[str], names: list[str], kinds: list[str], prices: list[int]) -> dict[str, str]:
    items = "".join(
        f'<article class="card">\n<h2>{kind}</h2>\n<p>{price} €</p>\n<button data-kind="{kind}" data-price="{price}">'
        f"Add {kind}</button>\n</article>\n"
        for kind, price in zip(kinds, prices, strict=True)
    )
    script = """\
const stored = () => JSON.parse(localStorage.getItem("basket") || "[]");
const count = () => { document.getElementById("count").textContent = stored().length; };
for (const button of document.querySelectorAll("[data-kind]")) {
  button.addEventListener("click", () => {
    const item = { kind: button.dataset.kind, price: +button.dataset.price };
    localStorage.setItem("basket", JSON.stringify([...stored(), item]));
    count();
  });
}
const rows = document.getElementById("rows");
function draw() {
  rows.replaceChildren(...stored().map(item => {
    const row = document.createElement("li");
    row.textContent = item.kind + " " + item.price + " €";
    return row;
  }));
  document.getElementById("sum").textContent = stored().reduce((sum, item) => sum + item.price, 0) + " €";
}
if (rows) {
  document.getElementById("empty").addEventListener("click", () => { localStorage.clear(); draw(); count(); });
  draw();
}
count();
"""
    basket = '<ul id="rows"></ul>\n<p>Sum: <strong id="sum"></strong></p>\n<button id="empty">Empty</button>\n'
    style = _SHEET + _SHOP
    bar = '<p id="basket">In the basket: <span id="count">0</span></p>\n'
    bodies = [f'{bar}<div class="cards">\n{items}</div>\n', bar + basket]
    return {
        path: _page(names[i], names[i], _nav(paths, names, i), bodies[i], own='<script src="shop.js"></script>\n')
        for i, path in enumerate(paths)
    } | {"style.css": style, "shop.js": script}

"""One component with behaviour on a page: what it shows, what the mouse and the keys do to it."""

from __future__ import annotations

import json

from palmette.envs.terminal.goals import Names
from palmette.envs.web.brief import Brief, document
from palmette.envs.web.plan import FITS, QUIET, Goal, Step, click, opened, press, see, typed

_OPEN = opened("index.html")
_PHONE = Goal(name="on a phone", size="phone", steps=[_OPEN, FITS, {"do": "targets"}, QUIET])


def tabs(n: Names) -> Brief:
    """Tabs by the pattern of the WAI-ARIA authoring practices."""
    title, labels, texts = n.word(), n.words(3), n.words(3)
    buttons = "".join(
        f'<button role="tab" id="t{i}" aria-controls="p{i}" aria-selected="{str(i == 0).lower()}"'
        f"{'' if i == 0 else ' tabindex=-1'}>{label}</button>\n"
        for i, label in enumerate(labels)
    )
    panels = "".join(
        f'<div role="tabpanel" id="p{i}" aria-labelledby="t{i}"{"" if i == 0 else " hidden"}>{text}</div>\n'
        for i, text in enumerate(texts)
    )
    body = f'<h1>{title}</h1>\n<div role="tablist" aria-label="{title}">\n{buttons}</div>\n{panels}'
    script = """\
const tabs = [...document.querySelectorAll("[role=tab]")];
function choose(tab) {
  for (const each of tabs) {
    const on = each === tab;
    each.setAttribute("aria-selected", on);
    each.tabIndex = on ? 0 : -1;
    document.getElementById(each.getAttribute("aria-controls")).hidden = !on;
  }
  tab.focus();
}
tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) choose(tabs[(i + step + tabs.length) % tabs.length]);
  });
});
"""
    style = """\
[role=tab] { background: #d9e2ec; color: #1f2933; margin-right: 8px; }
[role=tab][aria-selected=true] { background: #0b5cad; color: #fff; }
[role=tabpanel] { margin-top: 24px; padding: 24px; background: #fff; border-radius: 8px; }
"""

    def shown(i: int) -> list[Step]:
        return [
            see("[role=tab][aria-selected=true]", count=1, text=labels[i]),
            see("[role=tabpanel]", only_visible=True, count=1, text=texts[i]),
        ]

    begin = [_OPEN, {"do": "title", "text": title}, see("h1", text=title), see("[role=tab]", texts=labels), *shown(0)]
    mouse = [click("[role=tab]", with_text=labels[2]), *shown(2), click("[role=tab]", with_text=labels[1]), *shown(1)]
    keys = [press("ArrowRight"), *shown(2), press("ArrowRight"), *shown(0), press("ArrowLeft"), *shown(2), QUIET]
    return Brief(
        family="tabs",
        user=f"I want a page called {title} where I can switch between three texts without scrolling, by mouse or with "
        "the arrow keys.",
        design=f"Design a page {title} with a row of three tabs above one panel; the chosen tab stands out, the panel "
        "below shows its text. Keyboard users move along the row with the arrows, around its ends too.",
        implementation=f"Implement tabs by the WAI-ARIA pattern in index.html, title and h1 {title}: role tab with "
        "aria-selected, role tabpanel; unselected panels hidden; ArrowLeft and ArrowRight select and wrap.",
        contract=(
            f"It is index.html; title and h1 are {title}.",
            f"The tabs (role tab, aria-selected) are {', '.join(labels)}, the first is chosen at the start.",
            f"Their panels (role tabpanel, only one shown) say {', '.join(texts)}.",
        ),
        reference={"index.html": document(title, body, style=style, script=script)},
        goals=[Goal(name="tabs", steps=[*begin, *mouse, *keys]), _PHONE],
    )


def accordion(n: Names) -> Brief:
    """Questions that open their answers, one at a time."""
    title, asked, said = n.word(), n.words(4), n.words(4)
    items = "".join(
        f'<h2><button aria-expanded="false" aria-controls="a{i}">{q}</button></h2>\n<div id="a{i}" hidden>{a}</div>\n'
        for i, (q, a) in enumerate(zip(asked, said, strict=True))
    )
    script = """\
const buttons = [...document.querySelectorAll("h2 button")];
function show(button, open) {
  button.setAttribute("aria-expanded", open);
  document.getElementById(button.getAttribute("aria-controls")).hidden = !open;
}
for (const button of buttons) {
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    for (const each of buttons) show(each, each === button && open);
  });
}
"""
    style = """\
h2 { font-size: inherit; margin-bottom: 8px; }
h2 button { width: 100%; text-align: left; }
h2 + div { padding: 16px; margin-bottom: 8px; background: #fff; border-radius: 8px; }
"""
    answers = ", ".join(f"#a{i}" for i in range(4))

    def open_is(i: int | None) -> list[Step]:
        if i is None:
            none = see("button[aria-expanded=true]", count=0)
            return [none, see(answers, only_visible=True, count=0)]
        return [
            see("button[aria-expanded=true]", count=1, text=asked[i]),
            see(answers, only_visible=True, count=1, text=said[i]),
        ]

    steps = [_OPEN, {"do": "title", "text": title}, see("button", texts=asked), *open_is(None)]
    for i in (1, 3):
        steps += [click("button", with_text=asked[i]), *open_is(i)]
    steps += [click("button", with_text=asked[3]), *open_is(None), press("Enter"), *open_is(3), QUIET]
    pairs = ", ".join(f"{q} (a{i}: {a})" for i, (q, a) in enumerate(zip(asked, said, strict=True)))
    return Brief(
        family="accordion",
        user=f"Make me a page {title} with four questions. When I tap one its answer opens and the last one closes.",
        design=f"Design an accordion page {title}: four full-width questions, all closed at first; opening one closes "
        "the others, touching an open one closes it.",
        implementation=f"Implement an accordion in index.html, title {title}: buttons with aria-expanded, at most one "
        "true; closed answers are not displayed; works with Enter.",
        contract=(
            f"It is index.html with the title {title}.",
            f"The questions are buttons with aria-expanded; questions and answers (with these ids) are: {pairs}.",
        ),
        reference={"index.html": document(title, f"<h1>{title}</h1>\n{items}", style=style, script=script)},
        goals=[Goal(name="accordion", steps=steps), _PHONE],
    )


def signup(n: Names) -> Brief:
    """A form that says what is wrong, and thanks."""
    title, person, box, missing, wrong = n.words(5)
    body = f"""\
<h1>{title}</h1>
<form novalidate>
<label for="name">Name</label>
<input id="name">
<label for="mail">E-mail</label>
<input id="mail" type="email">
<p id="error" role="alert"></p>
<button id="send">Send</button>
</form>
<p id="done" hidden></p>
"""
    script = f"""\
const [form, name, mail, error, done] = ["form", "#name", "#mail", "#error", "#done"].map(
  selector => document.querySelector(selector));
form.addEventListener("submit", event => {{
  event.preventDefault();
  if (!name.value.trim()) {{ error.textContent = "{missing}"; name.focus(); return; }}
  if (!/^[^@\\s]+@[^@\\s]+$/.test(mail.value)) {{ error.textContent = "{wrong}"; mail.focus(); return; }}
  form.hidden = true;
  done.textContent = "Thank you, " + name.value.trim();
  done.hidden = false;
}});
"""
    style = """\
label { display: block; margin-bottom: 8px; }
input { display: block; width: 100%; max-width: 480px; margin-bottom: 16px; }
#error { color: #a61b1b; min-height: 28px; }
"""
    steps = [
        _OPEN,
        {"do": "title", "text": title},
        see("label[for=name], label[for=mail]", count=2),
        see("#error", visible=False, count=1, text=""),
        click("#send"),
        see("#error", text=missing),
        see("#name:focus", count=1),
        typed("#name", person),
        typed("#mail", box),
        click("#send"),
        see("#error", text=wrong),
        see("#mail:focus", count=1),
        typed("#mail", f"@{person}"),
        press("Enter"),
        see("#done", text=f"Thank you, {person}"),
        {"do": "unseen", "selector": "#name"},
        {"do": "at", "path": "index.html"},
        QUIET,
    ]
    return Brief(
        family="signup",
        user=f"People should leave me their name and e-mail on a page {title}. Tell them kindly if they forget one, "
        f"and "
        "thank them.",
        design=f"Design a short form {title}: two labelled fields, one button, one line for what is wrong above it; "
        f"when "
        "all is well the form gives way to a thank-you. The field that is wrong gets the focus.",
        implementation=f"Implement a form in index.html, title {title}, checked by script on submit, without leaving "
        "the page. An address is right with text on both sides of one @. The first wrong field is focused.",
        contract=(
            f"It is index.html with the title {title}.",
            "Fields are #name and #mail with label elements, the button is #send, errors appear in #error.",
            f"Without a name #error says {missing}; with a wrong address it says {wrong}.",
            "When all is right #done says Thank you, NAME and the form disappears.",
        ),
        reference={"index.html": document(title, body, style=style, script=script)},
        goals=[Goal(name="form", steps=steps), _PHONE],
    )


def todo(n: Names) -> Brief:
    """A list that is kept when the page is loaded again."""
    title, items = n.word(), n.words(3)
    body = f"""\
<h1>{title}</h1>
<form>
<label for="new">New</label>
<input id="new" autocomplete="off">
</form>
<ul id="list"></ul>
<p id="left"></p>
"""
    script = """\
const list = document.getElementById("list"), field = document.getElementById("new");
let items = JSON.parse(localStorage.getItem("items") || "[]");
function draw() {
  localStorage.setItem("items", JSON.stringify(items));
  list.replaceChildren(...items.map((item, i) => {
    const [row, box, text, gone] = ["li", "input", "span", "button"].map(name => document.createElement(name));
    box.type = "checkbox";
    box.checked = item.done;
    box.setAttribute("aria-label", "done: " + item.text);
    box.addEventListener("change", () => { item.done = box.checked; draw(); });
    text.textContent = item.text;
    gone.textContent = "Delete";
    gone.addEventListener("click", () => { items.splice(i, 1); draw(); });
    row.append(box, text, gone);
    return row;
  }));
  document.getElementById("left").textContent = items.filter(item => !item.done).length + " left";
}
document.querySelector("form").addEventListener("submit", event => {
  event.preventDefault();
  if (field.value.trim()) items.push({ text: field.value.trim(), done: false });
  field.value = "";
  draw();
});
draw();
"""
    style = """\
label { display: block; margin-bottom: 8px; }
#new { width: 100%; margin-bottom: 24px; }
ul { list-style: none; padding: 0; margin-bottom: 24px; }
li { display: flex; align-items: center; gap: 16px; padding: 8px 0; }
li span { flex: 1; }
li input { width: 24px; height: 24px; min-height: 24px; }
"""
    steps = [_OPEN, {"do": "title", "text": title}, see("#left", text="0 left")]
    for item in items:
        steps += [typed("#new", item, anew=True), press("Enter"), see("#new", value="")]
    steps += [
        see("#list li span", texts=items),
        see("#left", text="3 left"),
        typed("#new", "  "),
        press("Enter"),
        see("#list li", count=3),
        {"do": "click_nth", "selector": "#list li input", "nth": 1},
        see("#left", text="2 left"),
        {"do": "click_nth", "selector": "#list li button", "nth": 0},
        see("#list li span", texts=items[1:]),
        see("#left", text="1 left"),
        {"do": "reload"},
        see("#list li span", texts=items[1:]),
        see("#list li input:checked", count=1),
        see("#left", text="1 left"),
        QUIET,
    ]
    return Brief(
        family="todo",
        user=f"A simple list of things to do, called {title}: I type one, press Enter, tick it off or delete it, and "
        "tomorrow it is all still there.",
        design=f"Design a to-do page {title}: a field on top, the items below with a box, their text and a Delete "
        f"button "
        "in one row, and at the end how many are left. Blank entries do nothing.",
        implementation=f"Implement a to-do list in index.html, title {title}, with localStorage; blank input is "
        f"ignored "
        "and the field is emptied on Enter.",
        contract=(
            f"It is index.html with the title {title}.",
            "The field is #new; items are li in #list, each with a checkbox, a span with exactly the text, and a "
            "button "
            "Delete.",
            "#left says how many are not ticked, as in 2 left. Everything outlives a reload.",
        ),
        reference={"index.html": document(title, body, style=style, script=script)},
        goals=[Goal(name="list", steps=steps), _PHONE],
    )


def dialog(n: Names) -> Brief:
    """A modal dialog that keeps and gives back the focus."""
    title, question, yes, told = n.words(4)
    body = f"""\
<h1>{title}</h1>
<button id="ask">Ask</button>
<p id="told"></p>
<dialog aria-labelledby="q">
<h2 id="q">{question}</h2>
<button id="yes">{yes}</button>
<button id="no">Cancel</button>
</dialog>
"""
    script = f"""\
const box = document.querySelector("dialog"), ask = document.getElementById("ask");
ask.addEventListener("click", () => box.showModal());
document.getElementById("no").addEventListener("click", () => box.close());
document.getElementById("yes").addEventListener("click", () => {{
  document.getElementById("told").textContent = "{told}";
  box.close();
}});
"""
    style = """\
dialog { margin: auto; border: 0; border-radius: 12px; padding: 32px; }
dialog::backdrop { background: rgba(0, 0, 0, 0.5); }
h2 { margin-bottom: 24px; }
#told { margin-top: 24px; }
"""
    away: Step = {"do": "unseen", "selector": "#q"}
    steps = [
        _OPEN,
        {"do": "title", "text": title},
        away,
        click("#ask"),
        see("#q", text=question),
        see("#yes:focus, #no:focus", count=1),
        {"do": "covered", "selector": "#ask"},
        press("Escape"),
        away,
        see("#ask:focus", count=1),
        see("#told", visible=False, text=""),
        press("Enter"),
        see("#q"),
        click("#no"),
        away,
        see("#told", visible=False, text=""),
        click("#ask"),
        click("#yes"),
        away,
        see("#told", text=told),
        see("#ask:focus", count=1),
        QUIET,
    ]
    return Brief(
        family="dialog",
        user=f"On the page {title} I want a button that asks before it does something, with a way out by Escape.",
        design=f"Design {title}: one button opens a modal question in the middle; what is behind is dimmed and "
        f"cannot be "
        "clicked. Focus goes into the dialog and back to the button.",
        implementation=f"Implement a modal dialog in index.html, title {title}: focus moves to one of its buttons, "
        f"Escape "
        "and #no close it, focus returns to #ask, and nothing behind it can be clicked while it is open.",
        contract=(
            f"It is index.html with the title {title}.",
            f"The button is #ask; the question is #q and says {question}; its buttons are #yes ({yes}) and #no "
            f"(Cancel).",
            f"After #yes the dialog closes and #told says {told}; before that it is empty.",
        ),
        reference={"index.html": document(title, body, style=style, script=script)},
        goals=[Goal(name="dialog", steps=steps), _PHONE],
    )


def search(n: Names) -> Brief:
    """A list that narrows while one types."""
    title, words = n.word(), sorted(n.words(9))
    file, part = f"{n.word()}.json", words[4][:3]
    hits = [word for word in words if part in word]
    body = f"""\
<h1>{title}</h1>
<label for="q">Search</label>
<input id="q" autocomplete="off">
<p id="count" role="status"></p>
<ul id="hits"></ul>
"""
    script = f"""\
const field = document.getElementById("q");
fetch("{file}").then(answer => answer.json()).then(words => {{
  function draw() {{
    const found = words.filter(word => word.includes(field.value.trim().toLowerCase()));
    document.getElementById("hits").replaceChildren(...found.map(word => {{
      const row = document.createElement("li");
      row.textContent = word;
      return row;
    }}));
    document.getElementById("count").textContent = found.length + " of " + words.length;
  }}
  field.addEventListener("input", draw);
  draw();
}});
"""
    style = """\
label { display: block; margin-bottom: 8px; }
#q { width: 100%; margin-bottom: 16px; }
ul { list-style: none; padding: 0; }
li { padding: 8px 0; border-top: 1px solid #cbd2d9; }
"""
    others = sorted(n.words(4))
    steps = [
        _OPEN,
        {"do": "title", "text": title},
        see("#hits li", texts=words),
        see("#count", text="9 of 9"),
        typed("#q", part.upper()),
        see("#hits li", texts=hits),
        see("#count", text=f"{len(hits)} of 9"),
        typed("#q", "zzz"),
        see("#hits li", count=0),
        see("#count", text="0 of 9"),
        QUIET,
    ]
    other = [_OPEN, see("#hits li", texts=others), see("#count", text="4 of 4"), QUIET]
    return Brief(
        family="search",
        user=f"I have a list of words in {file}. Give me a page {title} that shows them and lets me search as I type.",
        design=f"Design {title}: a search field above the words of {file}; the list narrows with every letter and a "
        f"line "
        "says how many of how many are shown. Capital letters do not matter.",
        implementation=f"Implement index.html, title {title}: fetch {file} (an array of strings) when it is opened and "
        "filter by substring, ignoring case, on every input event, in the order of the file.",
        contract=(
            f"It is index.html with the title {title} and reads {file} when it is opened.",
            "The field is #q, the words are li in #hits, and #count says for example 3 of 9.",
        ),
        given={file: json.dumps(words) + "\n"},
        reference={"index.html": document(title, body, style=style, script=script)},
        goals=[
            Goal(name="search", steps=steps),
            Goal(name="other words", steps=other, instead={file: json.dumps(others)}),
            _PHONE,
        ],
    )

"""Pages where one types: a form that checks, a list that is kept, a search that narrows."""

from __future__ import annotations

import json

from palmette.envs.terminal.goals import Names
from palmette.envs.web.brief import Brief, document
from palmette.envs.web.briefs.components import ON_A_PHONE
from palmette.envs.web.plan import AXE, QUIET, Goal, click, opened, press, see, typed

_OPEN = opened("index.html")


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
        AXE,
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
        AXE,
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
        goals=[Goal(name="form", steps=steps), ON_A_PHONE],
    )


def todo(n: Names) -> Brief:
    """A list that is kept when the page is loaded again."""
    title, items = n.word(), n.words(3)
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
        AXE,
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
        reference={"index.html": _todo_page(title)},
        goals=[Goal(name="list", steps=steps), ON_A_PHONE],
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
        AXE,
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
            ON_A_PHONE,
        ],
    )


def _todo_page(title: str) -> str:
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
li button { background: #d9e2ec; color: #1f2933; }
li input { width: 24px; height: 24px; min-height: 24px; }
"""
    return document(title, body, style=style, script=script)

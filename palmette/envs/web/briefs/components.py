"""One component with behaviour on a page: what it shows, what the mouse and the keys do to it."""

from __future__ import annotations

from palmette.envs.terminal.goals import Names
from palmette.envs.web.brief import Brief, document
from palmette.envs.web.plan import AXE, QUIET, SOUND, Goal, Step, click, opened, press, see

_OPEN = opened("index.html")
ON_A_PHONE = Goal(name="on a phone", size="phone", steps=[_OPEN, *SOUND, {"do": "targets"}, QUIET])


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
    keys = [press("ArrowRight"), *shown(2), press("ArrowRight"), *shown(0), press("ArrowLeft"), *shown(2), AXE, QUIET]
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
        goals=[Goal(name="tabs", steps=[*begin, *mouse, *keys]), ON_A_PHONE],
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
h2 button { display: flex; justify-content: space-between; width: 100%; background: #d9e2ec; color: #1f2933; }
h2 button::after { content: "+"; }
h2 button[aria-expanded=true] { background: #0b5cad; color: #fff; }
h2 button[aria-expanded=true]::after { content: "\\2212"; }
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
    steps += [click("button", with_text=asked[3]), *open_is(None), press("Enter"), *open_is(3), AXE, QUIET]
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
        goals=[Goal(name="accordion", steps=steps), ON_A_PHONE],
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
<div>
<button id="yes">{yes}</button>
<button id="no">Cancel</button>
</div>
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
dialog div { display: flex; gap: 16px; }
#no { background: #d9e2ec; color: #1f2933; }
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
        AXE,
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
        AXE,
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
        goals=[Goal(name="dialog", steps=steps), ON_A_PHONE],
    )

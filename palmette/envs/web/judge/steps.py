"""What a task can ask of a page, as data: {"do": KIND, ...}; the kinds are in KINDS, each a function of page and step.

A step that looks is tried again until it holds or `within_s` is over; one that acts is done once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from .axe import check_axe
from .geometry import GEOMETRY
from .page import Missed, Page
from .seen import Node

_NAMED = {"button", "link", "textbox", "searchbox", "checkbox", "radio", "combobox", "tab", "dialog", "image", "img"}
_LOOKED_AT = 12  # elements of one step whose pixels and place are looked at; of more, the first


def perform(page: Page, step: dict, ends: float, within_s: float = 1.0) -> None:
    """Do or look at one step, before the clock says `ends`. Raises `Missed`."""
    kind = step["do"]
    if kind in ACTIONS:
        ACTIONS[kind](page, step)
        return
    patience = min(time.monotonic() + step.get("within_s", within_s), ends)
    while True:
        try:
            LOOKS[kind](page, step)
            return
        except Missed:
            if time.monotonic() > patience:
                raise
        page.browser.listen(0.05)
        page.forget()


def _see(page: Page, step: dict) -> None:
    """Elements are there, can be seen, and have these texts, values, attributes and computed styles.

    {selector, with_text, only_visible, count, text | texts | contains | matches, value, attributes, style, visible}; of
    `only_visible`, those that cannot be seen do not count.
    """
    found = page.find(step["selector"], tuple(step.get("style", ())))
    if "with_text" in step:
        found = [node for node in found if page.seen().text(node) == step["with_text"]]
    if step.get("only_visible"):
        found = [node for node in found if not page.seen().hidden(node, page.width)]
    what = step["selector"]
    if "count" in step and len(found) != step["count"]:
        raise Missed(f"{what}: {len(found)} elements, expected {step['count']}")
    if not found and step.get("count", 1) > 0:
        raise Missed(f"{what}: no such element{' with the text ' + step['with_text'] if 'with_text' in step else ''}")
    for node in found[:_LOOKED_AT] if step.get("visible", True) else []:
        if why := page.why_hidden(node):
            raise Missed(f"{what} {why}")
    _texts(page, step, found)
    for node in found:
        if "value" in step and (node.input_value or "") != step["value"]:
            raise Missed(f"{what} has the value {node.input_value!r}, expected {step['value']!r}")
        for name, want in step.get("attributes", {}).items():
            if node.attributes.get(name) != want:
                raise Missed(f"{what} has {name}={node.attributes.get(name)!r}, expected {want!r}")
        for name, want in step.get("style", {}).items():
            if node.style.get(name) not in (want if isinstance(want, list) else [want]):
                raise Missed(f"{what} has {name} {node.style.get(name)}, expected {want}")


def _texts(page: Page, step: dict, found: list[Node]) -> None:
    texts = [page.seen().text(node) for node in found]
    if "text" in step and any(text != step["text"] for text in texts):
        raise Missed(f"{step['selector']} says {texts[0][:60]!r}, expected {step['text']!r}")
    if "texts" in step and texts != step["texts"]:
        raise Missed(f"{step['selector']} say {str(texts)[:90]}, expected {str(step['texts'])[:90]}")
    for part in [step["contains"]] if isinstance(step.get("contains"), str) else step.get("contains", []):
        if not all(part in text for text in texts):
            raise Missed(f"{step['selector']} does not say {part!r}")
    if "matches" in step and not all(re.fullmatch(step["matches"], text) for text in texts):
        raise Missed(f"{step['selector']} says {texts[0][:60]!r}")


def _unseen(page: Page, step: dict) -> None:
    """No element that matches {selector} can be seen; there may be none."""
    for node in page.find(step["selector"]):
        if not page.seen().hidden(node, page.width):
            raise Missed(f"{step['selector']} can be seen")


def _covered(page: Page, step: dict) -> None:
    """A click on {selector} would hit something else."""
    if not page.is_covered(page.one(step["selector"])):
        raise Missed(f"{step['selector']} can still be clicked")


def _title(page: Page, step: dict) -> None:
    """The document's title is {text}."""
    if page.seen().title.strip() != step["text"]:
        raise Missed(f"the title is {page.seen().title[:60]!r}, expected {step['text']!r}")


def _at(page: Page, step: dict) -> None:
    """The page is at {path} of the site."""
    if page.path() != step["path"]:
        raise Missed(f"the page is at {page.path()[:60]!r}, expected {step['path']!r}")


def _accessible(page: Page, step: dict) -> None:
    """Controls and pictures have names, and the page a title and a language (WCAG 2.2, 4.1.2, 1.1.1, 2.4.2, 3.1.1).

    Names are those that the browser itself gives to assistive programs.
    """
    for node in page.call("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value", "")
        if not node.get("ignored") and role in _NAMED and not str(node.get("name", {}).get("value", "")).strip():
            raise Missed(f"an element of role {role} has no accessible name")
    if not page.seen().title.strip():
        raise Missed("the page has no title")
    if not all(node.attributes.get("lang", "").strip() for node in page.find("html")):
        raise Missed("the page does not say its language")


def _quiet(page: Page, step: dict) -> None:
    """Nothing was noted until now: no error, no request elsewhere, no dialog, no missing file."""
    page.browser.listen(step.get("for_s", 0.0))
    if page.notes:
        raise Missed(f"the page is not quiet: {page.notes[0]}")


def _light(page: Page, step: dict) -> None:
    """The page and all that it loads have at most {bytes}, and loading took at most {load_s}."""
    if page.site.bytes > step["bytes"]:
        raise Missed(f"the page loads {page.site.bytes} bytes, at most {step['bytes']} are allowed")
    if page.load_s > step["load_s"]:
        raise Missed(f"loading took {page.load_s:.1f} s, at most {step['load_s']} are allowed")


def _resize(page: Page, step: dict) -> None:
    page.resize(step["size"])
    page.browser.listen(0.1)


def _wait(page: Page, step: dict) -> None:
    page.browser.listen(step["for_s"])
    page.forget()


def _open(page: Page, step: dict) -> None:
    page.open(step["path"], step.get("query", ""))


def _type(page: Page, step: dict) -> None:
    if "selector" in step:
        page.click(page.one(step["selector"]))
        page.press("End")
        for _ in range(len(page.one(step["selector"]).input_value or "") if step.get("anew") else 0):
            page.press("Backspace")
    page.type(step["text"])


def _press(page: Page, step: dict) -> None:
    for _ in range(step.get("times", 1)):
        page.press(step["key"], shift=step.get("shift", False))


def _click(page: Page, step: dict) -> None:
    page.click(page.one(step["selector"], step.get("with_text", "")))


def _click_nth(page: Page, step: dict) -> None:
    found = page.find(step["selector"])
    if len(found) <= step["nth"]:
        raise Missed(f"{step['selector']}: {len(found)} elements, number {step['nth'] + 1} is asked for")
    page.click(found[step["nth"]])


ACTIONS: dict[str, Callable[[Page, dict], None]] = {
    "open": _open,
    "reload": lambda page, _: page.reload(),
    "resize": _resize,
    "wait": _wait,
    "click": _click,
    "click_nth": _click_nth,
    "hover": lambda page, step: page.hover(page.one(step["selector"], step.get("with_text", ""))),
    "type": _type,
    "press": _press,
}
LOOKS: dict[str, Callable[[Page, dict], None]] = {
    "see": _see,
    "unseen": _unseen,
    "covered": _covered,
    "title": _title,
    "at": _at,
    "accessible": _accessible,
    "axe": check_axe,
    "quiet": _quiet,
    "light": _light,
    **GEOMETRY,
}

"""axe-core's rules for accessibility, run in a JavaScript world of its own.

The world shares the page's document and nothing else (`Page.world`): what the page has done to prototypes, or calls axe
itself, is not there. What a document can do to every world is to call elements like properties, such as a field
``childNodes`` in a form; a page with such names where axe reads is missed.
"""

from __future__ import annotations

import json

from .page import Missed, Page

IMPACTS = ("minor", "moderate", "serious", "critical")
TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")  # WCAG 2.2, levels A and AA
_MOST_NODES = 5  # of one rule, told by their selectors

_SHADOWS = """\
(() => {
  const reads = name => name in Node.prototype || /^(get|has|query|first|last|child|elements?From)/.test(name) ||
    ["attributes", "tagName", "localName", "shadowRoot", "matches", "closest"].includes(name);
  const all = Document.prototype.querySelectorAll.call(document, "[name], [id]");
  for (const each of all) {
    const names = ["name", "id"].map(key => Element.prototype.getAttribute.call(each, key)).filter(Boolean);
    const ofDocument = /^(IMG|FORM|EMBED|OBJECT|IFRAME)$/.test(each.nodeName);
    const ofForm = /^(BUTTON|FIELDSET|INPUT|OBJECT|OUTPUT|SELECT|TEXTAREA|IMG)$/.test(each.nodeName);
    for (const name of names)
      if ((ofForm && reads(name)) || (ofDocument && name in Document.prototype)) return name;
  }
  return "";
})()"""
_RUN = """\
axe.run(document, %s).then(told => ({
  violations: told.violations.map(each => ({
    rule: each.id, impact: each.impact, help: each.help, count: each.nodes.length,
    nodes: each.nodes.slice(0, %d).map(node => node.target.flat().join(" ")),
  })),
  unsure: told.incomplete.map(each => each.id),
  passed: told.passes.length,
}))"""


def check_axe(page: Page, step: dict) -> None:
    """axe-core finds nothing of an impact above {allowed} (one of `IMPACTS`; none is the default).

    {rules} are the only rules asked for, else those with the tags {tags} (WCAG 2.2 A and AA), {without} are left out.
    What was found is kept in `page.audits`. A page on which axe-core cannot run is missed.
    """
    if not page.axe:
        raise ValueError("the plan asks for axe-core, and the page was opened without it")
    values = step.get("rules") or step.get("tags") or TAGS
    options = {
        "runOnly": {"type": "rule" if step.get("rules") else "tag", "values": list(values)},
        "rules": {name: {"enabled": False} for name in step.get("without", ())},
        "resultTypes": ["violations"],
        "iframes": False,  # frames are not looked into
        "preload": False,
    }
    world = page.world()
    if name := _asked(page, world, _SHADOWS):
        raise Missed(f"an element is called {str(name)[:40]}, which hides from axe-core what it reads")
    if _kept_from_readers(page) > 0.5:
        raise Missed("more than half of the text is hidden from screen readers (aria-hidden)")
    _asked(page, world, f"{page.axe}\n;0")
    told = _asked(page, world, _RUN % (json.dumps(options), _MOST_NODES))
    if not isinstance(told, dict):
        raise Missed("axe-core gives no result on this page")
    page.audits[id(step)] = {"page": page.path(), "width": page.width, **told}  # a second try replaces the first
    allowed = IMPACTS.index(step["allowed"]) if step.get("allowed") else -1
    worse = [each for each in told["violations"] if IMPACTS.index(each["impact"] or "critical") > allowed]
    if worse:
        first = max(worse, key=lambda each: IMPACTS.index(each["impact"] or "critical"))
        more = f" (and {len(worse) - 1} more rules)" if len(worse) > 1 else ""
        raise Missed(f"axe-core: {first['help']} [{first['rule']}, {first['impact']}]: {first['nodes'][0][:80]}{more}")


def _kept_from_readers(page: Page) -> float:
    """Return the share of the laid out text that stands in aria-hidden elements, which most rules pass over."""
    letters, kept = 0, 0
    for node in page.seen().nodes:
        if node.kind == 3 and node.box:
            count = len(node.value.strip())
            letters += count
            kept += count * any(each.attributes.get("aria-hidden") == "true" for each in page.seen().ancestors(node))
    return kept / letters if letters else 0.0


def _asked(page: Page, world: int, expression: str) -> object:
    """Return the value of an expression in a world. Raises `Missed` where it fails: it is the page's document."""
    asked = {"expression": expression, "contextId": world, "returnByValue": True, "awaitPromise": True}
    told = page.call("Runtime.evaluate", asked)
    if "exceptionDetails" in told:
        why = told["exceptionDetails"].get("exception", {}).get("description", "an error")
        raise Missed(f"axe-core cannot run on this page: {why.partition(chr(10))[0][:120]}")
    return told["result"].get("value")

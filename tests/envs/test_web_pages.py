"""Proves: pages are judged as a browser renders them, the reference's predicted observations are what a sandbox says,
and neither code of the page nor an endless, huge or fleeing page changes a verdict or hangs it."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from palmette.chat.message import ToolCall
from palmette.envs.api import Draft
from palmette.envs.build import drafts
from palmette.envs.grade import Grader, Verdict
from palmette.envs.prepare import prepare, spec_for
from palmette.envs.task import write_task
from palmette.envs.terminal.goals import Names
from palmette.envs.web.changes import CHANGES, make_stub
from palmette.envs.web.domain import Web
from palmette.envs.web.judge.browser import MISSING, Browser, find_browser
from palmette.envs.web.judge.page import Missed, Page
from palmette.envs.web.judge.site import Site
from palmette.envs.web.judge.steps import perform
from palmette.envs.web.plan import QUIET, Goal, Plan, opened, see
from palmette.sandbox.api import Host
from palmette.scaffolds.tools import act

needs_browser = pytest.mark.skipif(not find_browser(), reason=MISSING)


async def judged(host: Host, place: Path, files: dict[str, str | bytes], *goals: Goal, reward: str = "all") -> Verdict:
    """Return the verdict on a site, however it came about."""
    (draft,) = drafts("web", count=1, tiers=[1], split="train", seed=1)
    plan = Plan(goals=goals, needs=list(files)[:1], reward=reward, load_s=2.0)
    task = write_task(replace(draft, files=files, test_files=plan.files()), place)
    sandbox = await host.start(spec_for(task, owner="test"))
    try:
        await prepare(sandbox, task)
        return await Grader(host, cache=False).grade(task, sandbox)
    finally:
        await sandbox.close()


def look(*steps: dict, size: str = "desktop") -> Goal:
    return Goal(name="a", size=size, within_s=0.2, steps=[opened("a.html"), *steps])


def test_a_draft_of_tier_1_is_small() -> None:
    rng = random.Random(1)
    for number in range(300):
        draft = Web().draft(rng, tier=1, split="train", name=str(number))
        assert len(draft.instruction.split()) <= 20
        assert 2 <= len(draft.steps) <= 4
        assert all(len(step.observation.split()) <= 60 for step in draft.steps)


def _one_of_each() -> list[Draft]:
    """Return a task of tier 1 for each kind of change."""
    found: dict[str, Draft] = {}
    rng = random.Random(4)
    while len(found) < len(CHANGES):
        draft = Web().draft(rng, tier=1, split="heldout", name=f"web/{len(found)}")
        found.setdefault(draft.skills[0], draft)
    return list(found.values())


@needs_browser
async def test_each_change_is_judged_and_its_steps_say_what_a_sandbox_says(host: Host, tmp_path: Path) -> None:
    async def rewards(draft: Draft) -> tuple[float, float]:
        task = write_task(draft, tmp_path / draft.skills[0])
        sandbox = await host.start(spec_for(task, owner="test"))
        await prepare(sandbox, task)
        idle = await Grader(host).grade(task, sandbox)
        for step in draft.steps[:-1]:
            call = ToolCall(id="1", name=step.tool, arguments=step.arguments)
            assert await act(call, sandbox, limit=4000) == step.observation
        done = await Grader(host).grade(task, sandbox)
        await sandbox.close()
        return idle.reward, done.reward

    found = [await rewards(draft) for draft in _one_of_each()]
    assert found == [(0.0, 1.0)] * len(CHANGES)


def test_the_reference_of_several_changes_reads_what_is_there_then() -> None:
    for draft in drafts("web", count=40, tiers=[2], split="train", seed=6):
        (path,) = json.loads(draft.test_files["checks.json"])["needs"]
        text = str(draft.files[path])
        for step in draft.steps[:-1]:
            if step.tool == "edit":
                assert text.count(step.arguments["old"]) == 1
                text = text.replace(step.arguments["old"], step.arguments["new"])
            elif step.arguments["command"].startswith("cat "):
                assert step.observation == text.strip()
            elif step.arguments["command"].startswith("echo "):
                text += step.arguments["command"].split("'")[1] + "\n"
            else:
                text = "".join(t for t in text.splitlines(True) if step.arguments["command"].split("/")[1] not in t)


def test_a_stub_has_no_name_twice() -> None:
    stub = make_stub(Names(random.Random(2), "train"))
    names = [stub.title, stub.heading, *stub.paragraph, *stub.button]
    assert all(stub.text().count(name) == 1 for name in names)


@needs_browser
def test_what_has_to_be_scrolled_to_is_seen_and_clicked_where_it_is(tmp_path: Path) -> None:
    far = (
        "<meta name=viewport content='width=device-width'><title>t</title><style>div { height: 1500px } "
        "p { position: fixed; inset: auto 0 0; margin: 0; height: 99px; background: red }</style><div></div>"
        "<button onclick='textContent = \"kavo\"'>mita</button>"
    )
    (tmp_path / "far.html").write_text(far + "<div></div>")
    (tmp_path / "under.html").write_text(far + "<p></p>")
    browser = Browser()
    try:
        for size in ("desktop", "phone"):
            page = Page(browser, Site(str(tmp_path)), size)
            page.open("far.html")
            perform(page, see("button", text="mita"), 1e18, 0.0)
            perform(page, {"do": "click", "selector": "button"}, 1e18)
            perform(page, see("button", text="kavo"), 1e18, 0.2)
            page.open("under.html")
            with pytest.raises(Missed, match="is covered by something else"):
                perform(page, see("button"), 1e18, 0.0)
            page.close()
    finally:
        browser.close()


PAGE = '<!doctype html><title>t</title><h1 id="h">kavo</h1>'
WANTED = look({"do": "title", "text": "t"}, see("h1", count=1, text="kavo"), QUIET)
OTHERWISE = {
    "no such text": PAGE.replace("kavo", "mita"),
    "text of no display": PAGE.replace("<h1", '<h1 style="display: none"'),
    "text behind a curtain": PAGE + '<div style="position: fixed; inset: 0; background: red"></div>',
    "text of the page's colour": PAGE.replace("<h1", '<h1 style="color: #fff"'),
    "text far away": PAGE.replace("<h1", '<h1 style="position: absolute; left: -9000px"'),
    "text without opacity": f'<title>t</title><div style="opacity: 0.01">{PAGE[30:]}</div>',
    "text cut off": PAGE.replace("<h1", '<h1 style="position: absolute; clip-path: inset(50%); overflow: hidden"'),
    "text as a picture": PAGE.replace(
        "kavo",
        "<img alt='kavo' src=\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'>"
        "<text y='20'>kavo</text></svg>\">",
    ),
    "text of a pseudo element": PAGE.replace("kavo", "") + "<style>h1::before { content: 'kavo' }</style>",
    "lying prototypes": PAGE.replace("kavo", "") + "<script>for (const p of ['textContent', 'innerText']) "
    "Object.defineProperty(Node.prototype, p, {get: () => 'kavo'}); Document.prototype.querySelectorAll = () => "
    "[{textContent: 'kavo'}]; window.getComputedStyle = () => ({display: 'block'});</script>",
    "a console without errors": PAGE
    + "<script>console.error = () => 0; setTimeout(() => { throw Error('x') })</script>",
    "a request elsewhere": PAGE + "<img src='http://example.com/x.png'>",
    "a redirect away": PAGE + "<script>location = 'https://example.com/'</script>",
    "a redirect to a file": PAGE + "<script>location = 'file:///tests/checks.json'</script>",
    "an endless script": PAGE + "<script>while (true);</script>",
    "a script that ends later": PAGE + "<script>onload = () => setTimeout(() => { while (true); })</script>",
    "a page that loads itself": PAGE + "<script>location.reload()</script>",
    "dialogs without end": PAGE + "<script>for (;;) alert(1)</script>",
    "a bomb of nodes": PAGE
    + "<script>for (let i = 0; i < 60000; i++) document.body.append(document.createElement('i'))</script>",
    "a bomb of memory": PAGE + "<script>const a = []; for (;;) a.push(new Array(1e6).fill(1.5))</script>",
    "a missing file": PAGE + "<script src='gone.js'></script>",
}


@needs_browser
@pytest.mark.slow
async def test_what_a_person_cannot_see_is_not_there_and_no_page_hangs_the_judge(host: Host, tmp_path: Path) -> None:
    pages = {f"{number}.html": page for number, page in enumerate(OTHERWISE.values())}
    goals = [
        replace(WANTED, name=name, steps=[opened(f"{number}.html"), *WANTED.steps[1:]])
        for number, name in enumerate(OTHERWISE)
    ]
    verdict = await judged(host, tmp_path / "x", {"a.html": PAGE, **pages}, WANTED, *goals, reward="share")
    told = json.loads(verdict.files["report.json"])["goals"]
    assert [name for name, how in told.items() if how == "reached"] == ["a"]
    assert verdict.reward == pytest.approx(1 / (1 + len(goals)), abs=1e-3)
    assert told["a redirect away"] == "missed: the page tries to leave for https://example.com/"
    assert told["a bomb of memory"] == "missed: the page crashed"
    assert verdict.files["desktop.png"].startswith(b"\x89PNG")

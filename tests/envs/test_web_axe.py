"""Proves: axe-core finds what is wrong with a page whatever the page's code does; without it there is no verdict."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from palmette.envs.build import drafts
from palmette.envs.grade import Grader, VerifierError
from palmette.envs.prepare import prepare, spec_for, spec_when_made
from palmette.envs.task import write_task
from palmette.envs.web.judge import main as judge_main
from palmette.envs.web.judge.browser import MISSING, Browser, find_browser
from palmette.envs.web.judge.page import Missed, Page
from palmette.envs.web.judge.site import Site
from palmette.envs.web.judge.steps import perform
from palmette.envs.web.plan import AXE, AXE_CORE, Goal, Plan, opened
from palmette.errors import UserError
from palmette.registry import npm_file
from palmette.sandbox.hosts import open_host

needs_browser = pytest.mark.skipif(not find_browser(), reason=MISSING)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


GOOD = (
    '<!doctype html><html lang="en"><title>t</title><main><h1>kavo</h1><img alt="a cat" src="data:,">'
    "<form><label>Name <input name=title id=name></label><button id=remove>Send</button></form></main></html>"
)
NAMELESS = GOOD.replace('alt="a cat" ', "")
# What is wrong -> the page, and what axe-core or the judge says of it.
BAD = {
    "a picture without a text": (NAMELESS, "[image-alt, critical]: img"),
    "a field without a label": (GOOD.replace("<label>Name", "").replace("</label>", ""), "[label, critical]"),
    "faint text": (GOOD.replace("<h1>", '<h1 style="color: #aaa">'), "[color-contrast, serious]"),
    "lists of no items": (GOOD.replace("<form>", "<ul><div>a</div></ul><form>"), "[list, serious]"),
    "a role that is none": (GOOD.replace("<button", '<button role="knob"'), "[aria-roles, critical]"),
    "text that most rules pass over": (
        GOOD.replace("<form>", f"<p aria-hidden=true>{'kavo ' * 20}</p><form>"),
        "more than half of the text is hidden from screen readers",
    ),
    "an axe of its own": (
        NAMELESS
        + "<script>Object.defineProperty(window, 'axe', {value: {run: async () => ({violations: []})}})</script>",
        "image-alt",
    ),
    "lying prototypes": (
        NAMELESS
        + """<script>for (const key of ["getAttribute", "hasAttribute", "matches"])
        Element.prototype[key] = () => "a cat"; Document.prototype.querySelectorAll = () => [];
        Element.prototype.querySelectorAll = () => []; Array.prototype.filter = () => [];
        Promise.prototype.then = function () { return this; }; window.setTimeout = () => 0;
        Object.defineProperty(Node.prototype, "childNodes", {get: () => []}); window.getComputedStyle = () => null;
        Object.defineProperty(HTMLImageElement.prototype, "alt", {get: () => "a cat"});</script>""",
        "image-alt",
    ),
    "a field in the place of the form's nodes": (
        NAMELESS.replace("<img", "<form><input type=hidden name=childNodes><img").replace('src="data:,">', ">", 1),
        "an element is called childNodes",
    ),
    "a form in the place of the document's element": (
        NAMELESS + "<form name=documentElement></form>",
        "an element is called documentElement",
    ),
}


def seen(browser: Browser, root: Path, text: str, axe: str, step: dict = AXE) -> tuple[str, dict]:
    """Return what the judge says of a page ("" where nothing is wrong), and what axe-core reported."""
    (root / "a.html").write_text(text)
    page = Page(browser, Site(str(root)), axe=axe)
    step = {**step, "within_s": 0.0}
    try:
        page.open("a.html")
        perform(page, step, 1e18)
        return "", page.audits[id(step)]
    except Missed as why:
        return str(why), page.audits.get(id(step), {})
    finally:
        page.close()


@needs_browser
def test_a_good_page_passes_and_what_is_wrong_is_named(browser: Browser, axe: str, tmp_path: Path) -> None:
    said, told = seen(browser, tmp_path, GOOD, axe)
    assert (said, told["violations"]) == ("", [])
    assert told["passed"] > 8
    for name, (page, says) in BAD.items():
        assert says in seen(browser, tmp_path, page, axe)[0], name


@needs_browser
def test_a_step_says_what_is_looked_for_and_what_is_let_pass(browser: Browser, axe: str, tmp_path: Path) -> None:
    faint = BAD["faint text"][0]
    assert seen(browser, tmp_path, faint, axe, {"do": "axe", "allowed": "moderate"})[0]
    said, told = seen(browser, tmp_path, faint, axe, {"do": "axe", "allowed": "serious"})
    assert said == ""
    (found,) = told["violations"]
    assert (found["rule"], found["impact"], found["nodes"], found["count"]) == ("color-contrast", "serious", ["h1"], 1)
    assert "contrast" in found["help"]
    assert "\n" not in found["help"]
    assert seen(browser, tmp_path, faint, axe, {"do": "axe", "rules": ["image-alt"]})[0] == ""
    assert seen(browser, tmp_path, faint, axe, {"do": "axe", "without": ["color-contrast"]})[0] == ""
    assert (
        "[heading-order"
        in seen(
            browser, tmp_path, GOOD.replace("<form>", "<h4>x</h4><form>"), axe, {"do": "axe", "tags": ["best-practice"]}
        )[0]
    )


@needs_browser
def test_the_report_has_every_audit_once(axe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_main, "LOGS", str(tmp_path / "logs"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a.html").write_text(NAMELESS)
    plan = Plan(goals=[Goal(name="a", within_s=0.2, steps=[opened("a.html"), AXE])])
    report = judge_main.judge({**json.loads(plan.files()["checks.json"]), "workdir": str(tmp_path / "site")}, axe)
    assert report["reward"] == 0.0
    (audit,) = report["axe"]
    assert (audit["goal"], audit["page"], audit["width"]) == ("a", "a.html", 1920)
    assert [each["rule"] for each in audit["violations"]] == ["image-alt"]


@needs_browser
async def test_a_task_gets_axe_core_when_it_is_graded_and_no_reward_without_it(
    axe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (draft,) = drafts("web", count=1, tiers=[1], split="train", seed=1)
    plan = Plan(goals=[Goal(name="a", within_s=0.2, steps=[opened("a.html"), AXE])], needs=["a.html"])
    task = write_task(replace(draft, files={"a.html": GOOD}, test_files=plan.files()), tmp_path / "task")
    assert not (task.path / "tests" / "axe.min.js").exists()
    host = open_host("namespace")
    try:
        sandbox = await host.start(spec_for(task, owner="test"))
        await prepare(sandbox, task)
        verdict = await Grader(host, cache=False).grade(task, sandbox)
        assert verdict.reward == 1.0
        assert json.loads(verdict.files["report.json"])["axe"][0]["violations"] == []

        empty = tmp_path / "no npm"
        empty.mkdir()
        (empty / "python3").symlink_to(shutil.which("python3") or "")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        with monkeypatch.context() as without:
            without.setenv("PATH", str(empty))
            with pytest.raises(UserError, match=r"axe-core@4.14.1 could not be fetched: npm: .*install Node.js"):
                npm_file(**_asked())
        elsewhere = write_task(replace(draft, files={"a.html": GOOD}, test_files=plan.files()), tmp_path / "elsewhere")
        with pytest.raises(UserError, match="could not be fetched"):  # remembered; the agent is not even started
            await spec_when_made(elsewhere, owner="test")
        (elsewhere.path / "tests" / "npm.json").unlink()
        with pytest.raises(VerifierError, match=r"tests/axe\.min\.js is missing"):
            await Grader(host, cache=False).grade(elsewhere, sandbox)
        whole = write_task(
            replace(draft, files={"a.html": GOOD}, test_files={**plan.files(), "axe.min.js": axe}), tmp_path / "whole"
        )
        assert (await Grader(host, cache=False).grade(whole, sandbox)).reward == 1.0
    finally:
        await host.close()


def _asked() -> dict[str, str]:
    return {"package": AXE_CORE["package"], "name": AXE_CORE["path"], "sha256": AXE_CORE["sha256"]}


def test_what_is_fetched_is_the_file_that_was_meant(axe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="is no file of npm's"):
        npm_file("axe-core", "axe.min.js", AXE_CORE["sha256"])
    with pytest.raises(UserError, match="another file than the one that is asked for"):
        npm_file("axe-core@4.14.1", "axe.min.js", "0" * 64)
    assert [name for name in os.listdir(tmp_path / "palmette" / "npm") if not name.startswith(".")] == []

"""Judges a site by its plan: `main` is run by tests/test.sh, with this package beside it.

/tests/checks.json: {"workdir", "limit_s", "load_s", "needs": [path], "kept": {path: text}, "given": {path: text},
"goals": [{"name", "size", "within_s", "instead": {path: text}, "steps": [{"do": ...}, ...]}], "looks": [path],
"looks_bar", "reward"}; see
`palmette.envs.web.plan`. A goal is a tab of its own. The plan is taken into memory, and /tests is emptied, before a
page is opened. What was seen is left in /logs/verifier: report.json and PNGs by size. Where a step asks for axe-core,
/tests/axe.min.js must be there: it is no part of the task's directory but brought when it is graded (/tests/npm.json).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
import time
from collections.abc import Callable

from .browser import Browser, BrowserGone
from .looks import judged
from .page import SIZES, Missed, Page
from .site import NotServed, Site
from .steps import perform
from .view import view

TESTS, LOGS = "/tests", "/logs/verifier"
_PR_SET_DUMPABLE = 4
REWARDS: dict[str, Callable[[float, float], float]] = {  # (share of goals reached, looks by their bar) -> reward
    "all": lambda share, _: float(share == 1.0),
    "share": lambda share, _: share,
    "all_times_looks": lambda share, looks: float(share == 1.0) * min(1.0, looks),
}


def main() -> None:
    """Judge, leave pictures and a report, and write the reward; without a browser, none."""
    with open(os.path.join(TESTS, "checks.json"), encoding="utf-8") as file:
        plan = json.load(file)
    axe = _axe(plan)
    _shield()
    began_s = time.monotonic()
    try:
        report = judge(plan, axe)
    except BrowserGone as why:
        sys.exit(f"{why}")
    report["seconds"] = round(time.monotonic() - began_s, 3)
    for name, how in report["goals"].items():
        sys.stdout.write(f"goal {name}: {how}\n")
    _write("report.json", json.dumps(report, indent=1).encode())
    _write("reward.txt", f"{report['reward']:g}\n".encode())


def judge(plan: dict, axe: str = "") -> dict:
    """Return {"reward", "goals": {name: "reached" or why not}, "looks", "axe": [what it found on a page]}.

    The first miss decides where all goals are needed. `axe` is the text of axe.min.js, for plans that ask for it.
    """
    ends = time.monotonic() + plan.get("limit_s", 45.0)
    goals: dict[str, str] = {}
    why = _missing(plan)
    if why:
        return {"reward": 0.0, "goals": {"the files": f"missed: {why}"}}
    browser, shots, audits = Browser(), set[str](), list[dict]()
    try:
        for goal in plan["goals"]:
            goals[goal["name"]] = _goal(browser, plan, goal, ends, shots, axe, audits)
            if goals[goal["name"]] != "reached" and plan.get("reward", "all") != "share":
                break
        looks = _looks(browser, plan, ends) if all(how == "reached" for how in goals.values()) else {}
    finally:
        browser.close()
    reached = sum(how == "reached" for how in goals.values()) / len(plan["goals"])
    overall = [scores["overall"] for sizes in looks.values() for scores in sizes.values()]
    return {
        "reward": REWARDS[plan.get("reward", "all")](reached, min(overall, default=0.0) / plan.get("looks_bar", 1.0)),
        "goals": goals,
        "looks": looks,
        "axe": audits,
    }


def _looks(browser: Browser, plan: dict, ends: float) -> dict[str, dict[str, dict[str, float]]]:
    """Return the scores of how pages look: {path: {size: {name: score}}}."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for path in plan.get("looks", ()):
        for size in SIZES:
            page = Page(browser, Site(plan["workdir"]), size, load_s=plan.get("load_s", 10.0))
            try:
                page.open(path)
                found.setdefault(path, {})[size] = judged(view(page))
            except (Missed, RecursionError) as why:
                sys.stdout.write(f"the looks of {path} ({size}): {why}\n")
                found.setdefault(path, {})[size] = {"overall": 0.0}
            finally:
                page.close()
            if time.monotonic() > ends:
                return {path: {size: {"overall": 0.0}}}
    return found


def _goal(browser: Browser, plan: dict, goal: dict, ends: float, shots: set[str], axe: str, audits: list[dict]) -> str:
    size = goal.get("size", "desktop")
    page = Page(browser, Site(plan["workdir"], goal.get("instead")), size, load_s=plan.get("load_s", 10.0), axe=axe)
    try:
        for number, step in enumerate(goal["steps"]):
            if time.monotonic() > ends:
                return "missed: the time for judging is over"
            perform(page, step, ends, goal.get("within_s", 1.0))
            if number == 0 and size not in shots:
                shots.add(size)
                _write(f"{size}.png", page.picture())
    except (Missed, RecursionError) as why:
        return f"missed: {why}"
    finally:
        audits += ({"goal": goal["name"], **found} for found in page.audits.values())
        page.close()
    return "reached"


def _missing(plan: dict) -> str:
    """Return what is wrong with the files, which needs no browser to be seen."""
    site = Site(plan["workdir"])
    for name in plan.get("needs", ()):
        try:
            site.read(name)
        except NotServed as why:
            return str(why)
    for key, same in (("kept", True), ("given", False)):
        for name, text in plan.get(key, {}).items():
            try:
                if (site.read(name).decode("utf-8", "replace") == text) is not same:
                    return f"{name} is {'not ' if same else ''}as it was"
            except NotServed as why:
                return str(why)
    return ""


def _axe(plan: dict) -> str:
    """Return axe-core where a step asks for it; without it there is no verdict."""
    if not any(step["do"] == "axe" for goal in plan["goals"] for step in goal["steps"]):
        return ""
    try:
        with open(os.path.join(TESTS, "axe.min.js"), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        sys.exit("tests/axe.min.js is missing: put there what tests/npm.json names; without it no page is judged")


def _shield() -> None:
    """Let nobody read our memory, and take the tests away."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for name in os.listdir(TESTS):
        path = os.path.join(TESTS, name)
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)


def _write(name: str, data: bytes) -> None:
    """Write a file of the verdict, whatever stands in its place."""
    os.makedirs(LOGS, exist_ok=True)
    path = os.path.join(LOGS, name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb") as file:
        file.write(data)

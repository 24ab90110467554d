"""Packages of npm's in exact versions, chosen and installed with npm's own configuration; none of their scripts is run.

What npm chose is kept as the text of its package-lock.json, without the addresses it came from, so that another machine
installs the same from the registry that is set there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from palmette.errors import UserError

_NPM_S, _ASK_S = 600.0, 10.0
_QUIET = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
_NAME = re.compile(r"(@[a-z0-9~][\w.~-]*/)?[a-z0-9~][\w.~-]*", re.IGNORECASE)

# What lets `import` find the packages as `require` does by NODE_PATH; for whoever runs node by hand in a sandbox.
_HOOK = """
import { register } from 'node:module'
const hooks = `
const beside = new URL('../../x.js', ${JSON.stringify(import.meta.url)}).href
export async function resolve(what, context, next) {
  try { return await next(what, context) } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND' || /^[./]|^[a-z]+:/.test(what)) throw error
    return next(what, { ...context, parentURL: beside })
  }
}`
register('data:text/javascript,' + encodeURIComponent(hooks))
"""
HOOK = ".palmette/hook.mjs"  # below node_modules


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A Node.js of this machine: its program, its major version, and the directory it is installed in."""

    program: str
    version: str
    prefix: str


@cache
def node() -> Node:
    """Return the Node.js on the PATH. Raises `UserError` where there is none, or no npm beside it."""
    program = shutil.which("node")
    if not program or not shutil.which("npm"):
        raise UserError("JavaScript needs Node.js 20 or later and npm in PATH; install them")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_ASK_S)
    version = done.stdout.strip().removeprefix("v").partition(".")[0]
    if not version.isdigit() or int(version) < 20:
        raise UserError(f"JavaScript needs Node.js 20 or later; {program} is {done.stdout.strip() or 'none'}")
    return Node(program=program, version=version, prefix=str(Path(program).resolve().parents[1]))


def named(text: str) -> bool:
    """Say whether a text is the name of a package, and no address, path or option."""
    return bool(_NAME.fullmatch(text)) and len(text) < 215


@cache
def resolve(wanted: tuple[tuple[str, str], ...]) -> tuple[tuple[str, ...], str]:
    """Return what npm chooses for (name, versions) pairs: "name@version", sorted, and the text of its lock.

    Raises `UserError` quoting npm.
    """
    if not wanted:
        return (), ""
    with tempfile.TemporaryDirectory(prefix="palmette-npm-") as scratch:
        _manifest(Path(scratch), dict(wanted))
        _npm(["install", "--package-lock-only", "--omit-lockfile-registry-resolved", "--legacy-peer-deps"], scratch)
        said = json.loads((Path(scratch) / "package-lock.json").read_text(encoding="utf-8"))
    found = set[str]()
    for place, package in said["packages"].items():
        package.pop("resolved", None)
        if place:
            found.add(f"{place.rpartition('node_modules/')[2]}@{package.get('version', '')}")
    return tuple(sorted(found)), json.dumps(said, separators=(",", ":"))


def install(lock: str, into: Path) -> None:
    """Install what a lock says into ``into/node_modules``. Raises `UserError` quoting npm."""
    if lock:
        _manifest(into, json.loads(lock)["packages"][""].get("dependencies", {}))
        (into / "package-lock.json").write_text(lock, encoding="utf-8")
        _npm(["ci", "--legacy-peer-deps"], str(into))
    hook = into / "node_modules" / HOOK
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(_HOOK, encoding="utf-8")


def download(name: str, version: str, into: Path) -> Path:
    """Return the archive of a package in a directory; version "" is the latest. Raises `UserError` quoting npm."""
    asked = f"{name}@{version}" if version else name
    said = _npm(["pack", "--json", "--pack-destination", str(into), asked], str(into))
    try:
        return into / Path(json.loads(said)[0]["filename"].replace("@", "").replace("/", "-")).name
    except (ValueError, LookupError, TypeError):
        raise UserError(f"npm does not say what it has packed of {asked}") from None


def releases(name: str) -> list[str]:
    """Return the versions of a package, oldest first. Raises `UserError` quoting npm."""
    said = json.loads(_npm(["view", name, "versions", "--json"], None) or "[]")
    return [said] if isinstance(said, str) else said


def _manifest(folder: Path, dependencies: Mapping[str, str]) -> None:
    said = {"name": "palmette-environment", "version": "1.0.0", "private": True, "dependencies": dict(dependencies)}
    (folder / "package.json").write_text(json.dumps(said), encoding="utf-8")


def _npm(arguments: Sequence[str], folder: str | None) -> str:
    node()
    what = " ".join(arguments)
    try:
        done = subprocess.run(
            ["npm", *arguments, *_QUIET],
            cwd=folder,
            env=os.environ | {"NODE_OPTIONS": ""},
            capture_output=True,
            text=True,
            timeout=_NPM_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"npm did not end within {_NPM_S:g} s: {what}") from None
    if done.returncode:
        said = [line.removeprefix("npm error ") for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise UserError("npm: " + " ".join(line for line in said if "complete log" not in line)[:400] or what)
    return done.stdout

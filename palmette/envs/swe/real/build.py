"""Builds a project's environment: tries environments until its tests are collected and say the same every time."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path

from palmette.envs.locked import Lock
from palmette.envs.swe.real.bench import Bench, read_tree
from palmette.envs.swe.real.built import Built, Report, seal_all
from palmette.envs.swe.real.fetch import NPM, fetch
from palmette.envs.swe.real.languages import LANGUAGES
from palmette.envs.swe.real.project import Language, Project, Result, Run
from palmette.envs.swe.real.releases import older_release
from palmette.errors import UserError
from palmette.sandbox.api import Host

COLLECTED, AGREED = 0.9, 0.9  # shares of the tests that must be collected, and that must say the same again
_FEWEST = 5  # stable tests
_CLEARLY, _MOSTLY, _TRIED = 0.97, 0.8, 3  # shares that pass and end the search, from the first and the third attempt on


async def build_project(what: str, host: Host) -> Built:
    """Fetch a project, find an environment in which its tests run, and measure them.

    Everything of the project's own runs in sandboxes of `host`, without network. Raises `UserError` with the reason
    when it cannot be built.
    """
    began_s, released = time.monotonic(), _released(what)
    scratch = Path(tempfile.mkdtemp(prefix="palmette-project-"))
    try:
        source = await asyncio.to_thread(fetch, what, scratch / Path(what).name.partition("==")[0])
        language, project = _discovered(source.path, what)
        files = await asyncio.to_thread(read_tree, source.path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    built = await measure(host, language, project, files)
    name = re.sub(r"@[^/]*$", "", what) if what.startswith(NPM) else project.name
    version, older = await asyncio.to_thread(older_release, name, project.version) if released else ("", {})
    took_s = round(time.monotonic() - began_s, 2)
    report = replace(built.report, build_s=took_s, provenance=source.provenance)
    return replace(built, report=report, older=older, older_version=version)


async def measure(
    host: Host, language: Language, project: Project, files: Mapping[str, bytes], *, fewest: int = _FEWEST
) -> Built:
    """Find an environment for files that are here, and measure what its tests come to; at least `fewest` must pass.

    Raises `UserError` with the reason when there is none.
    """
    lock, first, attempts = await _settled(host, language, project, files)
    built = await _measured(host, language, project, lock, files, first, fewest)
    return replace(built, report=replace(built.report, attempts=attempts))


def _released(what: str) -> bool:
    """Say whether a project is fetched by its name: then there may be a release before it."""
    return not Path(what).exists()


def _discovered(tree: Path, what: str) -> tuple[Language, Project]:
    for language in LANGUAGES.values():
        if project := language.discover(tree):
            return language, project
    raise UserError(
        f"{what}: no modules with tests of {' or '.join(LANGUAGES)} in it (a package may leave them out; "
        "of JavaScript's runners, node:test and the manner of mocha are known)"
    )


async def _settled(
    host: Host, language: Language, project: Project, files: Mapping[str, bytes]
) -> tuple[Lock, Run, int]:
    """Return the first environment in which enough of the tests are collected, its run, and how many were tried."""
    locks = language.locks(project)
    best: tuple[float, Lock, Run] | None = None
    lock = await asyncio.to_thread(next, locks)
    tried = 0
    while lock is not None:
        tried += 1
        async with Bench(host, language, project, lock, files) as bench:
            run = await bench.run()
        good = _collected(project, files, run) * _passing(run)
        if best is None or good > best[0]:
            best = good, lock, run
        if _collected(project, files, run) > COLLECTED and _passing(run) > (_CLEARLY if tried < _TRIED else _MOSTLY):
            return lock, run, tried
        lock = await asyncio.to_thread(_sent, locks, run)
    assert best is not None
    _, lock, run = best
    share = _collected(project, files, run)
    if share <= COLLECTED or _passing(run) < 0.5:
        why = next(iter(run.errors.values()), "") or next((r.message for r in run.results.values() if r.message), "")
        said = re.sub(r"\s+", " ", why)[-200:]
        raise UserError(
            f"{project.name} {project.version}: in {tried} environments at most {share:.0%} of its tests are collected "
            f"and {_passing(run):.0%} of those pass; the last reason: {said}"
        )
    return lock, run, tried


def _sent(locks: Generator[Lock, Run, None], run: Run) -> Lock | None:
    try:
        return locks.send(run)
    except StopIteration:
        return None


def _collected(project: Project, files: Mapping[str, bytes], run: Run) -> float:
    """Return the share of tests that were collected, counting those of files that were not by their looks."""
    lost = sum(_looks(files.get(path.partition("::")[0], b"")) for path in run.errors)
    if not run.ended or not run.results or any(not path for path in run.errors):
        return 0.0
    return len(run.results) / (len(run.results) + lost)


def _looks(data: bytes) -> int:
    return max(1, len(re.findall(rb"^\s*(?:async )?def test|^\s*(?:it|test)\(", data, re.M)))


def _passing(run: Run) -> float:
    tried = [result for result in run.results.values() if result.outcome != "skipped"]
    return sum(result.outcome in ("passed", "xfailed") for result in tried) / max(1, len(tried))


async def _measured(
    host: Host, language: Language, project: Project, lock: Lock, files: Mapping[str, bytes], first: Run, fewest: int
) -> Built:
    """Run the tests again, then sealed; what passes alike every time is the baseline."""
    async with Bench(host, language, project, lock, files) as bench:
        again = await bench.run()
    agreed = [name for name, result in first.results.items() if _same(result, again.results.get(name))]
    if len(agreed) < AGREED * len(first.results):
        differ = next(name for name in first.results if name not in agreed)
        raise UserError(
            f"{project.name} {project.version}: only {len(agreed)} of {len(first.results)} tests come out alike twice "
            f"(not {differ})"
        )
    passed = {name for name in agreed if first.results[name].outcome == "passed"}
    open_places: frozenset[int] = frozenset()
    while True:
        sealed = seal_all(language, files, project.tests, open_places)
        overlay = {**files, **{path: text.encode() for path, text in sealed.files.items()}}
        async with Bench(host, language, project, lock, overlay) as bench:
            plain = [await bench.run()]
            if more := frozenset(plain[0].open_places) - open_places:
                open_places |= more
                continue
            plain.append(await bench.run())
            traced = await bench.run(trace=True)
        break
    stable = {
        name: result
        for name, result in traced.results.items()
        if name in passed and all(_sealed_same(result, run.results.get(name)) for run in plain)
    }
    if len(stable) < fewest:
        raise UserError(f"{project.name} {project.version}: only {len(stable)} tests pass alike every time")
    report = Report(
        collected=len(first.results),
        share=_collected(project, files, first),
        passed=len(passed),
        stable=len(stable),
        values=len(sealed.places) - len(open_places),
        run_s=round(first.wall_s, 2),
        build_s=0.0,
        attempts=0,
        provenance="",
    )
    return Built(project=project, lock=lock, report=report, files=files, baseline=stable, open_places=open_places)


def _same(one: Result, other: Result | None) -> bool:
    return other is not None and one.outcome == other.outcome


def _sealed_same(one: Result, other: Result | None) -> bool:
    return other is not None and one.outcome == other.outcome == "passed" and one.digest == other.digest

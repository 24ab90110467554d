"""Bugs that were real: what a release mended, undone again, hunk by hunk, file by file and as a whole."""

from __future__ import annotations

import difflib
import random
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.version import InvalidVersion, Version

from palmette.envs.swe.real.bench import read_tree
from palmette.envs.swe.real.bugs import Candidate, calling_into, of_library
from palmette.envs.swe.real.built import Built
from palmette.envs.swe.real.fetch import fetch, release, releases
from palmette.errors import UserError

_NEAR = 3  # lines; changes that are no farther apart are one hunk
_MOST_HUNKS = 60


def older_release(name: str, version: str) -> tuple[str, dict[str, bytes]]:
    """Return the release before `version` that can be had, and its files; ("", {}) where there is none."""
    try:
        this = Version(version)
        before = [each for each in releases(name) if Version(each) < this and not Version(each).is_prerelease]
    except (UserError, InvalidVersion):
        return "", {}
    if not before:
        return "", {}
    last = max(before, key=Version)
    scratch = Path(tempfile.mkdtemp(prefix="palmette-release-"))
    try:
        return last, read_tree(fetch(release(name, last), scratch / "older").path)
    except UserError:
        return "", {}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def by_release(built: Built, rng: random.Random) -> Iterator[Candidate]:
    """Yield the differences to the release before, undone: each hunk, each file with several, all together."""
    undone: dict[str, str] = {}
    hunks: list[Candidate] = []
    for path, new, old in _changed(built):
        undone[path] = old
        own = list(_hunks(old, new))
        tests = calling_into(built, path, rng)
        hunks += [Candidate(kind="hunk", files={path: text}, where="", tests=tests) for text in own]
        if len(own) > 1:
            hunks.append(Candidate(kind="file", files={path: old}, where="", tests=tests))
    rng.shuffle(hunks)
    if len(undone) > 1:
        yield Candidate(kind="release", files=undone, where="")
    yield from hunks[:_MOST_HUNKS]


def _changed(built: Built) -> Iterator[tuple[str, str, str]]:
    """Yield (path, text, text in the release before) of what differs in the library."""
    for path, old in sorted(_moved(built.older, built.files).items()):
        if of_library(built, path) and built.files[path] != old and not re.search(r"version", path):
            try:
                yield path, built.files[path].decode(), old.decode()
            except UnicodeDecodeError:
                continue


def _moved(older: Mapping[str, bytes], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the older files by today's paths: a library may have moved below src/, or out of it."""
    found = {path: data for path, data in older.items() if path in files}
    for path, data in older.items():
        for other in (f"src/{path}", path.removeprefix("src/")):
            if path not in files and other in files and other not in found:
                found[other] = data
    return found


def _hunks(old: str, new: str) -> Iterator[str]:
    """Yield the new text with one hunk as it was, for every hunk."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    groups: list[list[int]] = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        if groups and k - groups[-1][3] <= _NEAR:
            groups[-1][1], groups[-1][3] = j, m
        else:
            groups.append([i, j, k, m])
    for i, j, k, m in groups:
        if "".join(before[i:j]).split() != "".join(after[k:m]).split():
            yield "".join([*after[:k], *before[i:j], *after[m:]])

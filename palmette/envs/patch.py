"""What an agent changed in its work directory, as a patch that ``git apply`` takes."""

from __future__ import annotations

import difflib
import io
import tarfile
from collections.abc import Iterator, Mapping

from palmette.envs.api import Task
from palmette.envs.prepare import work_directory
from palmette.sandbox.api import Sandbox

Files = Mapping[str, tuple[bytes, bool]]
"""Content and executable bit by path below the work directory."""

_SKIPPED = {".git", "__pycache__", ".pytest_cache"}  # of no interest in a patch, and changed by merely looking around


async def patch_of(task: Task, sandbox: Sandbox) -> str:
    """Return what differs in the sandbox's work directory from what the task put there. Raises `SandboxError`."""
    return patch_between(work_directory(task), unpacked(await sandbox.download(task.workdir)))


def applying(patch: str, workdir: str) -> str:
    """Return the solve.sh that applies a patch in a work directory."""
    lines = patch.rstrip("\n")  # not of blanks: an empty line of context is one
    return f"#!/bin/sh\nset -e\ncd {workdir}\ngit apply <<'END_OF_PATCH'\n{lines}\nEND_OF_PATCH\n"


def unpacked(tar: bytes) -> dict[str, tuple[bytes, bool]]:
    """Return the regular files of a tar."""
    files: dict[str, tuple[bytes, bool]] = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        for member in opened:
            if member.isreg() and (content := opened.extractfile(member)):
                files[member.name.removeprefix("./")] = content.read(), bool(member.mode & 0o100)
    return files


def patch_between(before: Files, after: Files) -> str:
    """Return a patch in git's format, files in order of their paths.

    Files that are not UTF-8 text, links and empty directories are left out.
    """
    paths = sorted(path for path in before.keys() | after.keys() if not _SKIPPED & set(path.split("/")))
    return "".join(part for path in paths for part in _file(path, before.get(path), after.get(path)))


def _file(path: str, before: tuple[bytes, bool] | None, after: tuple[bytes, bool] | None) -> Iterator[str]:
    if before == after:
        return
    old, new = _lines(before), _lines(after)
    if old is None or new is None:
        return
    yield f"diff --git a/{path} b/{path}\n"
    if before is None or after is None:
        there = before or after
        yield f"{'new' if before is None else 'deleted'} file mode {_mode(there)}\n"
    elif before[1] != after[1]:
        yield f"old mode {_mode(before)}\nnew mode {_mode(after)}\n"
    names = ("/dev/null" if before is None else f"a/{path}", "/dev/null" if after is None else f"b/{path}")
    for line in difflib.unified_diff(old, new, *names):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _lines(file: tuple[bytes, bool] | None) -> list[str] | None:
    """Return lines with their ends, None for what is not text; only newlines end a line, as in git."""
    try:
        text = (file[0] if file else b"").decode()
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    *lines, rest = text.split("\n")
    return [f"{line}\n" for line in lines] + ([rest] if rest else [])


def _mode(file: tuple[bytes, bool] | None) -> str:
    return "100755" if file and file[1] else "100644"

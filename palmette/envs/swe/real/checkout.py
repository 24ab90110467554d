"""Takes a commit out of a clone, with the file of its version that a build would have written."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from palmette.errors import UserError

_UNKNOWN = "9999"  # where no tag tells: newer than whatever anybody asks for


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """The day of a commit (YYYY-MM-DD), and the version that the tags before it tell."""

    day: str
    version: str


def check_out(clone: Path, commit: str, tree: Path) -> Checkout:
    """Put the files of a commit into a new directory `tree`. Raises `UserError` where the clone does not have it.

    Where a build would write the version that git tells into a module (setuptools-scm's `write_to`), it is written.
    """
    tree.mkdir(parents=True)
    with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        if _git(clone, "archive", "-o", archive.name, commit) is None:
            raise UserError(f"{clone} has no commit {commit}")
        subprocess.run(["tar", "-xf", archive.name, "-C", str(tree)], check=True, capture_output=True)
    tag = _git(clone, "describe", "--tags", "--abbrev=0", commit) or ""
    version = _version(tag)
    _write_version(tree, version)
    return Checkout(day=_git(clone, "show", "-s", "--format=%cs", commit) or "", version=version)


def _git(clone: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(clone), *arguments], capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout.strip()


def _version(tag: str) -> str:
    """Return the version in a tag such as "v1.2", "release-1.2" or "name-1.2"."""
    found = re.search(r"\d+[\d.]*\w*$", tag)
    try:
        return str(Version(found.group())) if found else _UNKNOWN
    except InvalidVersion:
        return _UNKNOWN


def _write_version(tree: Path, version: str) -> None:
    for name in ("pyproject.toml", "setup.py", "setup.cfg"):
        said = (tree / name).read_text(encoding="utf-8", errors="replace") if (tree / name).is_file() else ""
        for path in re.findall(r"""\b(?:write_to|version_file)["']?\s*[:=]\s*["']([\w/-]+\.py)["']""", said):
            if (tree / path).parent.is_dir() and not (tree / path).exists():
                parts = tuple(int(part) for part in Version(version).release)
                text = f"__version__ = version = {version!r}\n__version_tuple__ = version_tuple = {parts!r}\n"
                (tree / path).write_text(text, encoding="utf-8")

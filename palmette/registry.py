"""What comes from the package registry that npm is configured with, and what its clients say when nothing comes.

$XDG_CACHE_HOME/palmette/npm/SHA256/FILE    one file of a package, known by its content
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from palmette.cache import cache_dir, made_once
from palmette.errors import UserError
from palmette.run import write_atomic

UNREACHABLE = "the package registry cannot be reached"
_PACKAGE = re.compile(r"(@[a-z0-9._-]+/)?[a-z0-9._-]+@[0-9][0-9A-Za-z.+-]*")
_PACK_S, _AGAIN_S = 120.0, 60.0
_MOST_BYTES = 16 << 20
_fetching = threading.Lock()
_failed: dict[Path, tuple[float, str]] = {}  # file -> when it could not be had, and why


def npm_file(package: str, name: str, sha256: str) -> Path:
    """Return a file of a package (``axe-core@4.14.1``), fetched on first need; nothing of the package is run. Blocks.

    Raises `UserError` in one line when it cannot be had, or is not the file that `sha256` says; the same answer is
    given for a minute, so that a batch does not wait for each of its tasks.
    """
    if not _PACKAGE.fullmatch(package) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UserError(f"'{package}' with sha256 '{sha256}' is no file of npm's: give NAME@VERSION and 64 digits")
    target = cache_dir("npm", sha256) / Path(name).name
    if target.is_file():
        return target
    with _fetching:
        if target.is_file():  # whoever held the lock has fetched it
            return target
        when, why = _failed.get(target, (float("-inf"), ""))
        if time.monotonic() - when > _AGAIN_S:
            try:
                made_once(target.parent, partial(_fetch, package, name, sha256))
                if target.is_file():
                    return target
                why = f"{target.parent} is there and holds no {target.name}; remove it"
            except UserError as error:
                why = str(error)
                _failed[target] = time.monotonic(), why
        raise UserError(f"{package} could not be fetched: {why}; or put its {name} at {target}")


def why(said: str, code: int) -> str:
    """Say in one line why pip or npm failed; offline pip ends with "no matching distribution", which would mislead."""
    if "connection broken by" in said:
        return f"{UNREACHABLE}; check the network, or pip's index setting"
    if any(each in said for each in ("ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT")):
        return f"{UNREACHABLE}; check the network, or npm's registry setting"
    if "Could not resolve host" in said:
        return f"{UNREACHABLE}; git could not resolve the host of a package"
    if "ensurepip is not available" in said:
        return "its Python cannot make virtual environments; on Debian, install python3-venv"
    lines = [line.strip() for line in said.splitlines()]
    telling = [line for line in lines if line.lower().startswith(("fatal:", "npm error"))]
    telling += [line for line in lines if "error" in line.lower() and not line.startswith(("note:", "npm error"))]
    telling = [line for line in telling if "complete log" not in line and "subprocess-exited" not in line]
    return telling[-1] if telling else f"exit {code}"


def _fetch(package: str, name: str, sha256: str, into: Path) -> None:
    npm = ["npm", "pack", package, "--ignore-scripts", "--loglevel=error", "--no-update-notifier", "--fetch-retries=1"]
    with tempfile.TemporaryDirectory(prefix="palmette-npm-") as scratch:
        try:
            done = subprocess.run(
                npm, cwd=scratch, capture_output=True, text=True, timeout=_PACK_S, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"npm did not end within {_PACK_S:g} s; check the network, or npm's registry setting"
            ) from None
        except OSError as error:
            raise UserError(f"npm: {error.strerror}; install Node.js, which brings it") from None
        if done.returncode:
            raise UserError(why(done.stdout + done.stderr, done.returncode))
        data = _content(next(Path(scratch).glob("*.tgz")), name)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"its {name} is another file than the one that is asked for")
    write_atomic(into / Path(name).name, data)


def _content(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        try:
            file = tar.extractfile(f"package/{name}")
        except KeyError:
            file = None
        if file is None:
            raise UserError(f"it holds no {name}")
        return file.read(_MOST_BYTES)

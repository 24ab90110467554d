"""Root file systems for sandboxes, kept in the user's cache under the hash of what they were made from.

    $XDG_CACHE_HOME/palmette/images/ID/root/        the files, shared by every sandbox, never written again
                                    ID/image.json   what it is; its time is when it was used last, its lock is its use
                                    names/NAME      the ID that a name stands for

An image made from another shares all unchanged files with it by hard links, so it costs what it adds. What is not
in use, and nothing else was made from, goes when the budget is passed, the longest unused first.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from palmette.cache import cache_dir
from palmette.errors import UserError, suggest

BUDGET_BYTES = 20 << 30
_EMPTIED = ("dev", "proc", "sys", "run", "tmp")
_STALE_S = 24 * 3600.0  # a scratch directory older than this belongs to nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an image says beside its files."""

    source: str  # in words, for people
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A finished image; `own_bytes` is what it takes on disk beside what it shares with `parent`."""

    id: str
    root: Path
    source: str
    env: Mapping[str, str]
    workdir: str
    own_bytes: int
    parent: str
    used: float  # seconds since 1970


def store() -> Path:
    """Return where this user's images are kept."""
    return cache_dir("images")


class Images:
    """The images below one directory. Finding one keeps it from being removed while this object lives."""

    def __init__(self, directory: Path | None = None, *, budget_bytes: int = BUDGET_BYTES) -> None:
        self.directory = directory or store()
        self.budget_bytes = budget_bytes
        self._held: dict[str, int] = {}
        self._holding = threading.Lock()

    def find(self, name: str) -> Image | None:
        """Return the image with this name or id, marked as used now, or None."""
        key = self._names().get(_full(name), name)
        if not key.isalnum():
            return None
        path = self.directory / key / "image.json"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        fcntl.flock(fd, fcntl.LOCK_SH)
        if not path.exists():  # removed while we waited
            os.close(fd)
            return None
        os.utime(path)
        with self._holding:  # tasks may look for their images in several threads
            held = self._held.get(key, -1)
            self._held[key] = fd
        if held >= 0:
            os.close(held)
        return self._read(path)

    def add(self, key: str, parent: Image | None, fill: Callable[[Path], Config]) -> Image:
        """Return the image `key`; if there is none, `fill` is given a private copy of the parent's files to change."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._lock(key):
            if found := self.find(key):
                return found
            scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=self.directory))
            try:
                root = scratch / "root"
                root.mkdir()
                if parent:
                    copy_tree(parent.root, root)
                config = fill(root)
                _tidy(root)
                own = _share(root, parent.root if parent else None)
                record = {**asdict(config), "own_bytes": own, "parent": parent.id if parent else ""}
                (scratch / "image.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
                os.rename(scratch, self.directory / key)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            image = self.find(key)
            assert image is not None
        self.shrink()
        return image

    def name(self, image: Image, name: str) -> None:
        """Let `name` stand for the image. Raises `UserError` for a name that could be mistaken."""
        if name in ("host", "scratch") or not name or name.startswith((".", "-", "/")):
            raise UserError(f"an image cannot be called '{name}'; use a name such as debian:bookworm")
        names = self.directory / "names"
        names.mkdir(exist_ok=True)
        scratch = names / f".{os.getpid()}"
        scratch.write_text(image.id, encoding="utf-8")
        os.rename(scratch, names / quote(_full(name), safe=""))

    def names(self, image: Image) -> list[str]:
        """Return the names that stand for the image, without ":latest"."""
        return sorted(name.removesuffix(":latest") for name, key in self._names().items() if key == image.id)

    def all(self) -> list[Image]:
        """Return every image, the last used first."""
        found = []
        for path in self.directory.glob("[0-9a-f]*/image.json"):
            with suppress(OSError):
                found.append(self._read(path))
        return sorted(found, key=lambda image: -image.used)

    def remove(self, name: str) -> Image:
        """Remove an image and its names. Raises `UserError` if there is none, or it is in use or built upon."""
        image = self.find(name)
        if image is None:
            known = [word for each in self.all() for word in (each.id, *self.names(each))]
            raise UserError(f"no image '{name}'{suggest(name, known)} (see 'palmette sandbox images list')")
        os.close(self._held.pop(image.id))
        if child := next((each for each in self.all() if each.parent == image.id), None):
            raise UserError(f"image {name} is what {child.id} was made from; remove that first")
        if not self._evict(image):
            raise UserError(f"image {name} is in use by a sandbox host; close it first")
        return image

    def shrink(self) -> list[Image]:
        """Remove what passes the budget, the longest unused first, and return it."""
        removed = []
        for scratch in self.directory.glob(".*-*"):
            with suppress(OSError):
                if time.time() - scratch.stat().st_mtime > _STALE_S:
                    shutil.rmtree(scratch, ignore_errors=True)
        images = self.all()
        total = sum(image.own_bytes for image in images)
        going = True
        while total > self.budget_bytes and going:
            parents = {image.parent for image in images}
            going = False
            for image in reversed(images):
                if image.id not in parents and image.id not in self._held and self._evict(image):
                    images.remove(image)
                    removed.append(image)
                    total -= image.own_bytes
                    going = True
                    break
        return removed

    def close(self) -> None:
        """Let go of every image that was found. Idempotent."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _evict(self, image: Image) -> bool:
        path = self.directory / image.id
        try:
            fd = os.open(path / "image.json", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gone = Path(tempfile.mkdtemp(prefix=".old-", dir=self.directory))
            os.rename(path, gone / image.id)
        except OSError:
            return False
        finally:
            os.close(fd)
        shutil.rmtree(gone, ignore_errors=True)
        for name in self.names(image):
            (self.directory / "names" / quote(_full(name), safe="")).unlink(missing_ok=True)
        return True

    def _read(self, path: Path) -> Image:
        used = path.stat().st_mtime
        record = json.loads(path.read_text(encoding="utf-8"))
        return Image(id=path.parent.name, root=path.parent / "root", used=used, **record)

    def _names(self) -> dict[str, str]:
        found = {}
        for path in (self.directory / "names").glob("[!.]*"):
            with suppress(OSError):
                found[unquote(path.name)] = path.read_text(encoding="utf-8")
        return found

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """Let one process at a time make the image `key`."""
        locks = self.directory / "locks"
        locks.mkdir(exist_ok=True)
        fd = os.open(locks / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def copy_tree(source: Path, target: Path) -> None:
    """Copy what is in a directory with owners, modes, times, links and attributes; blocks shared where possible.

    Raises `UserError` when the copy fails.
    """
    command = ["cp", "-a", "--reflink=auto", f"{source}/.", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise UserError(f"{source} cannot be copied: {done.stderr.strip().splitlines()[-1]}")


def _full(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _tidy(root: Path) -> None:
    """Remove what belongs to a running machine and not to an image: devices, sockets, what the kernel mounts."""
    for name in _EMPTIED:
        path = root / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        path.chmod(0o1777 if name == "tmp" else 0o755)
    for directory, _, files in os.walk(root):
        for name in files:
            path = os.path.join(directory, name)
            if not (stat.S_ISREG(mode := os.lstat(path).st_mode) or stat.S_ISLNK(mode)):
                os.unlink(path)
    etc = root / "etc"
    if etc.is_dir() and not etc.is_symlink():
        (etc / "resolv.conf").unlink(missing_ok=True)
        (etc / "resolv.conf").touch()
    root.chmod(0o755)


def _share(root: Path, parent: Path | None) -> int:
    """Replace files that are as the parent has them by links to those; return the bytes of all others."""
    own = 0
    seen: set[int] = set()
    for directory, _, files in os.walk(root):
        below = os.path.relpath(directory, root)
        for name in files:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            twin = os.path.join(parent, below, name) if parent else ""
            if twin and stat.S_ISREG(info.st_mode) and _same(info, path, twin):
                try:
                    os.link(twin, f"{path}.palmette-link")
                    os.rename(f"{path}.palmette-link", path)
                    continue
                except OSError:  # as many links as the file system allows: it stays a copy
                    Path(f"{path}.palmette-link").unlink(missing_ok=True)
            if info.st_ino not in seen:
                seen.add(info.st_ino)
                own += info.st_blocks * 512
    return own


def _same(info: os.stat_result, path: str, twin: str) -> bool:
    try:
        other = os.lstat(twin)
    except OSError:
        return False
    fields = ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns")
    if any(getattr(info, each) != getattr(other, each) for each in fields):
        return False
    return _attributes(path) == _attributes(twin)


def _attributes(path: str) -> dict[str, bytes]:
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}

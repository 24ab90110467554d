"""Environments of exact versions, one read-only directory each in the user's cache, shared by all sandboxes.

A task names one in `environment/python.json` (`node.json` for JavaScript); on a machine that does not have it yet, pip
installs the same versions from wheels, or npm without their scripts, which runs nothing of theirs. The package whose
repository the task is about is not among them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from palmette.cache import cache_dir, made_once
from palmette.envs import npm
from palmette.envs.toolchain import Toolchain, own_python, python_toolchain
from palmette.errors import UserError

_BACKPORTS = {"exceptiongroup": 11, "tomli": 11, "typing-extensions": 11, "importlib-metadata": 10}  # Python 3.N has it
_PIP_S, _RESOLVE_S, _ASK_S = 600.0, 120.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A Python, what is installed for it ("name==version", sorted), and what the project itself is called there.

    For a project in JavaScript there is a Node.js too, and the packages ("name@version") are npm's.
    """

    python: str  # "3.11"
    packages: tuple[str, ...]
    name: str = ""
    version: str = ""
    entry_points: str = ""  # text of the project's entry_points.txt
    roots: tuple[str, ...] = (".",)  # directories of the work directory that modules are imported from
    options: tuple[str, ...] = ()  # what its test runner is told besides
    node: str = ""  # "20"
    npm: str = ""  # text of a package-lock.json

    @property
    def key(self) -> str:
        """What the directory is called: a digest of what is in it."""
        said = [self.python, self.packages, self.name, self.version, self.entry_points]
        said = ["node", self.packages, self.npm] if self.node else said
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    @property
    def runtime(self) -> str:
        """What runs the project, for people."""
        return f"Node.js {self.node}" if self.node else f"Python {self.python}"

    @property
    def file(self) -> str:
        """What it is called in a task's environment."""
        return "node.json" if self.node else "python.json"

    def text(self) -> str:
        """Return it as JSON, for its file in `environment/`."""
        return json.dumps(asdict(self), indent=1) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python of this machine: its program, and the directory it is installed in."""

    version: str
    program: str
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What pip is to choose versions for: requirements that must be met, and others that may be left out."""

    needed: tuple[str, ...]
    wished: tuple[str, ...] = ()
    before: str = ""  # only what was uploaded before this day, where the index tells


def lock_of(environment: Path) -> Lock | None:
    """Return the lock of a task's `environment/`, None where it has none. Raises `UserError` for one that is broken."""
    for name in ("python.json", "node.json"):
        if (environment / name).is_file():
            return read_lock(environment / name)
    return None


def read_lock(path: Path) -> Lock:
    """Return the lock in a file. Raises `UserError` for one that is broken."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        listed = {name: tuple(data.pop(name)) for name in ("packages", "roots", "options") if name in data}
        return Lock(**listed, **data)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a list of packages for a Python or a Node.js: {error}") from None


def toolchain_of(lock: Lock, workdir: str) -> Toolchain:
    """Return Python and what is installed, for a sandbox whose project lies in `workdir`. Blocks while pip works.

    The first directory that is shown holds the packages. Raises `UserError` where there is no such Python or Node.js,
    or pip or npm cannot install the versions.
    """
    if lock.node:
        return _node_toolchain(lock)
    python, site = interpreter(lock.python), installed(lock)
    roots = [os.path.normpath(os.path.join(workdir, root)) for root in lock.roots]
    fixed = () if python.prefix in ("/usr", "/usr/local") else (python.prefix,)
    env = {
        "PATH": ":".join(dict.fromkeys([f"{python.prefix}/bin", "/usr/local/bin", "/usr/bin", "/bin"])),
        "PYTHONPATH": ":".join([*roots, str(site)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return Toolchain(readonly=(str(site), *fixed), env=env)


def _node_toolchain(lock: Lock) -> Toolchain:
    there = npm.node()
    if there.version != lock.node:
        raise UserError(f"there is no Node.js {lock.node} here, but {there.version}; put it in PATH")
    packages, base = str(installed(lock) / "node_modules"), python_toolchain()
    fixed = () if there.prefix in ("/usr", "/usr/local") else (there.prefix,)
    path = f"{packages}/.bin:{Path(there.program).parent}:{base.env['PATH']}"
    env = base.env | {"PATH": path, "NODE_PATH": packages, "NODE_OPTIONS": f"--import=file://{packages}/{npm.HOOK}"}
    return Toolchain(readonly=(packages, *base.readonly, *fixed), env=env)


def installed(lock: Lock) -> Path:
    """Return the directory of a lock, made if it is not there. Raises `UserError` quoting pip or npm."""
    fill = partial(npm.install, lock.npm) if lock.node else partial(_install, lock)
    return made_once(cache_dir("environments", lock.key), fill)


def _install(lock: Lock, scratch: Path) -> None:
    if lock.packages:
        _pip(lock.python, ["--no-deps", *lock.packages], scratch)
    if lock.name:
        _name(lock, scratch)
    python = interpreter(lock.python).program
    compiling = [python, "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(scratch)]
    subprocess.run(compiling, capture_output=True, check=False)  # what does not compile is never imported


@cache
def resolve(python: str, wanted: Wanted, *, without: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the exact versions that pip chooses for a Python, without the project itself, and the wishes left out.

    Wheels only, so nothing of what is chosen is run. Remembered, for pip may take a minute. Raises `UserError` when
    what is needed cannot be had.
    """
    before = [f"--uploaded-prior-to={wanted.before}"] if wanted.before else []
    wished, dropped = list(wanted.wished), list[str]()
    scratch = Path(tempfile.mkdtemp(prefix="palmette-resolve-"))
    try:
        while True:
            try:
                report = scratch / "report.json"
                asked = [*before, "--dry-run", "--report", str(report), *wanted.needed, *_backports(python), *wished]
                _pip(python, asked, scratch / "nothing", _RESOLVE_S, dated=bool(before))
                break
            except UserError as error:
                late = "did not end" in str(error)  # then nobody knows which wish it was
                blamed = [wish for wish in wished if not late and named(wish) in str(error).lower().replace("_", "-")]
                if not wished:
                    raise
                for wish in blamed or list(wished):
                    wished.remove(wish)
                    dropped.append(wish)
        chosen = json.loads(report.read_text(encoding="utf-8"))["install"]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    pins = {named(each["metadata"]["name"]): each["metadata"]["version"] for each in chosen}
    return tuple(f"{n}=={v}" for n, v in sorted(pins.items()) if n != named(without)), tuple(dropped)


def _backports(python: str) -> list[str]:
    """Return what older Pythons need in place of newer modules: pip looks at its own Python to find out."""
    if python == own_python():
        return []
    return [name for name, since in _BACKPORTS.items() if int(python.partition(".")[2]) < since]


def named(requirement: str) -> str:
    """Return the normal form of a requirement's name (PEP 503)."""
    letters = next((n for n, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), len(requirement))
    return requirement[:letters].lower().replace("_", "-").replace(".", "-")


@cache
def interpreter(version: str) -> Interpreter:
    """Return the Python of a version such as "3.11". Raises `UserError` if this machine has none."""
    own = own_python()
    if version == own:
        return Interpreter(version=own, program=str(Path(sys.base_prefix) / "bin" / "python3"), prefix=sys.base_prefix)
    if version in (found := _interpreters()):
        return found[version]
    raise UserError(f"there is no Python {version} here (there are {own}, {', '.join(found)}); install one")


def versions() -> tuple[str, ...]:
    """Return the versions of Python that this machine has, our own first, then the newest."""
    own = own_python()
    others = sorted(_interpreters(), key=lambda v: tuple(map(int, v.split("."))), reverse=True)
    return (own, *(each for each in others if each != own))


@cache
def _interpreters() -> Mapping[str, Interpreter]:
    """Find other Pythons: on the PATH, and installed beside our own."""
    found: dict[str, Interpreter] = {}
    beside = sorted(Path(sys.base_prefix).parent.glob("*3.*/bin/python3"))
    on_path = [program for n in range(8, 20) if (program := shutil.which(f"python3.{n}"))]
    asking = "import sys; print('%d.%d' % sys.version_info[:2], sys.base_prefix)"
    for program in [*map(str, beside), *on_path]:
        if Path(program).name.removeprefix("python") in found:
            continue
        try:
            command = [program, "-I", "-c", asking]
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_ASK_S)
        except (OSError, subprocess.TimeoutExpired):
            continue  # a wrapper that leads nowhere
        version, _, prefix = done.stdout.strip().partition(" ")
        if done.returncode == 0 and tuple(map(int, version.split("."))) >= (3, 8) and version not in found:
            found[version] = Interpreter(version=version, program=f"{prefix}/bin/python3", prefix=prefix)
    return found


def _pip(python: str, arguments: Sequence[str], target: Path, limit_s: float = _PIP_S, *, dated: bool = False) -> None:
    """Have our own pip install into a directory, for another Python if need be; wheels only.

    Where days count (`dated`), directories that pip is told to look in are not looked at: files tell no day.
    """
    variables = os.environ | (_remote() if dated else {})
    own = own_python()
    other = [] if python == own else ["--python-version", python, "--implementation", "cp"]
    command = [sys.executable, "-m", "pip", "install", "-q", "--only-binary", ":all:", "--no-compile", "--no-input"]
    command += ["--disable-pip-version-check", "--no-warn-conflicts", "--target", str(target), *other, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL, env=variables
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"pip did not end within {limit_s:g} s: {' '.join(arguments)}") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise UserError("pip: " + " ".join(said)[-600:])


@cache
def _remote() -> Mapping[str, str]:
    """Return settings for pip that leave out places on this machine."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False).stdout
    values = re.findall(r"^(?:global|install|:env:)\.extra-index-url='(.*)'$", said, re.M)
    urls = [url for value in values for url in value.replace("\\n", " ").split() if re.match(r"https?://", url)]
    nowhere = str(cache_dir("environments", "nothing"))  # an empty setting would not count
    return {"PIP_FIND_LINKS": nowhere, "PIP_EXTRA_INDEX_URL": " ".join(dict.fromkeys(urls)) or nowhere}


def _name(lock: Lock, site: Path) -> None:
    """Let the project be found under its name and version, as if it were installed."""
    folder = site / f"{lock.name.replace('-', '_')}-{lock.version}.dist-info"
    folder.mkdir(exist_ok=True)
    said = f"Metadata-Version: 2.1\nName: {lock.name}\nVersion: {lock.version}\n"
    (folder / "METADATA").write_text(said, encoding="utf-8")
    if lock.entry_points:
        (folder / "entry_points.txt").write_text(lock.entry_points, encoding="utf-8")

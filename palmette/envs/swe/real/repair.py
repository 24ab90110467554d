"""Finds an environment for a Python project: the likeliest first, then what its failures ask for."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from palmette.envs.locked import Lock, Wanted, named, resolve, versions
from palmette.envs.swe.real.project import Project, Run
from palmette.errors import UserError

_ROUNDS = 8
_DISTRIBUTIONS = {  # modules whose distribution is called otherwise
    "attr": "attrs",
    "yaml": "pyyaml",
    "dateutil": "python-dateutil",
    "pkg_resources": "setuptools<81",
    "distutils": "setuptools<81",
    "bs4": "beautifulsoup4",
    "PIL": "pillow",
    "OpenSSL": "pyopenssl",
    "git": "gitpython",
    "dotenv": "python-dotenv",
    "jose": "python-jose",
    "magic": "python-magic",
    "docx": "python-docx",
    "serial": "pyserial",
    "usb": "pyusb",
    "zmq": "pyzmq",
    "Crypto": "pycryptodome",
    "cv2": "opencv-python-headless",
    "sklearn": "scikit-learn",
    "google": "protobuf",
    "imp": "",
    "_pytest": "",
}
_FIXTURES = {  # fixtures and the plugins that bring them
    "mocker": "pytest-mock",
    "benchmark": "pytest-benchmark",
    "httpbin": "pytest-httpbin",
    "datadir": "pytest-datadir",
    "shared_datadir": "pytest-datadir",
    "subtests": "pytest-subtests",
    "freezer": "pytest-freezer",
    "faker": "faker",
    "snapshot": "syrupy",
    "httpserver": "pytest-httpserver",
    "aiohttp_client": "pytest-aiohttp",
    "requests_mock": "requests-mock",
    "time_machine": "time-machine",
    "data_regression": "pytest-regressions",
    "file_regression": "pytest-regressions",
    "event_loop": "pytest-asyncio<0.26",
    "fs": "pyfakefs",
    "responses": "responses",
    "testdir": "",
    "tmpdir": "",
}
_QUIET = ("-W", "default")  # warnings that a project makes errors are of a time that was not ours


def attempts(project: Project) -> Generator[Lock, Run, None]:
    """Yield environments; what came of the last one, sent back, decides about the next."""
    wished, options, pin = list(project.wished), (), "pytest"
    times = [(python, before) for python in _pythons(project) for before in (*project.before, "")]
    python, before = times.pop(0)
    tried: dict[Lock, Run] = {}
    told = frozenset[str]()
    for _ in range(_ROUNDS):
        try:
            packages, dropped = _resolved(project, python, before, pin, wished)
        except UserError as error:
            if not times:
                raise UserError(f"{project.name}: no environment can be installed: {error}") from None
            python, before = times.pop(0)
            continue
        wished = [wish for wish in wished if wish not in dropped]
        lock = Lock(
            python=python,
            packages=packages,
            name=project.name,
            version=project.version,
            entry_points=project.entry_points,
            roots=project.roots,
            options=(*project.options, *options),
        )
        run = tried[lock] if lock in tried else (yield lock)
        tried[lock] = run
        stuck, told = bool(told) and complaints(run) == told, complaints(run)
        more = [wish for wish in _missing(project, run) if wish not in wished and wish not in dropped]
        if more:
            wished += more
        elif _hopeless(project, run) or (stuck and not times):
            return
        elif stuck:  # other warnings or another pytest would not help either
            (python, before), pin, options = times.pop(0), "pytest", ()
        elif not options:
            options = _QUIET
        elif pin == "pytest":
            pin = "pytest<8"
        elif pin == "pytest<8":
            pin = "pytest<7.3"
        elif times:
            (python, before), pin, options = times.pop(0), "pytest", ()
        else:
            return


def complaints(run: Run) -> frozenset[str]:
    """Return what a run in which nothing passed complains of, without numbers; nothing where some test passed."""
    if any(result.outcome == "passed" for result in run.results.values()):
        return frozenset()
    said = [*run.errors.values(), *(result.message for result in run.results.values() if result.message)]
    return frozenset(re.sub(r"0x[0-9a-f]+|\d+", "0", text[-300:]) for text in said)


def _resolved(
    project: Project, python: str, before: str, pin: str, wished: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    needed = [each for each in project.needed if named(each) != named(project.name)]
    return resolve(python, Wanted(needed=(*needed, pin), wished=tuple(wished), before=before), without=project.name)


def _pythons(project: Project) -> Iterator[str]:
    """Yield the versions this machine has and the project allows: our own, then a newer and an old one."""
    try:
        allowed = SpecifierSet(project.pythons)
    except InvalidSpecifier:
        allowed = SpecifierSet()
    known = [version for version in versions() if allowed.contains(f"{version}.99")]
    if not known:
        raise UserError(
            f"{project.name} wants Python {project.pythons}; there are {', '.join(versions())}; install one"
        )
    yield known[0]
    others = sorted(known[1:], key=lambda version: abs(int(version.partition(".")[2]) - 9))
    yield from others[:2]


def _hopeless(project: Project, run: Run) -> bool:
    """Say whether all that fails is that parts of the project itself are not there, such as compiled ones."""
    own = "|".join(re.escape(path.rpartition("/")[2].removesuffix(".py")) for path in project.sources)
    return bool(run.errors) and all(re.search(rf"No module named '({own})\.", text) for text in run.errors.values())


def _missing(project: Project, run: Run) -> Iterator[str]:
    """Yield what failures ask for: modules that are not there, and fixtures of plugins."""
    said = [*run.errors.values(), *(result.message for result in run.results.values() if result.message)]
    own = {path.rpartition("/")[2].removesuffix(".py") for path in project.sources}
    for text in said:
        for module in re.findall(r"No module named '([\w.]+)'", text):
            top = module.partition(".")[0]
            name = _DISTRIBUTIONS.get(top, top.replace("_", "-"))
            if name and top not in own and top not in ("tests", "test", "conftest"):
                yield name
        for fixture in re.findall(r"fixture '(\w+)' not found", text):
            if _FIXTURES.get(fixture):
                yield _FIXTURES[fixture]
        if "async def functions are not natively supported" in text:
            yield "pytest-asyncio"

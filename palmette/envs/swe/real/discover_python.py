"""Reads what a Python project says about itself: name, requirements, tests, where its modules are."""

from __future__ import annotations

import configparser
import re
import tomllib
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from palmette.envs.swe.real.addopts import choosing
from palmette.envs.swe.real.project import Project
from palmette.envs.swe.real.setup_py import asked_for

_TESTING = {
    "test",
    "tests",
    "testing",
    "tests-minimal",
    "dev",
    "develop",
    "development",
    "check",
    "all-tests",
    "pytest",
}
_ASIDE = {"docs", "doc", "examples", "example", "benchmarks", "benchmark", "scripts", "tools", "build", "dist", "bench"}
_TESTS = {"test", "tests", "testing", "t", "test_suite", "unittests"}
_ALONE = {
    "setup.py",
    "conftest.py",
    "noxfile.py",
    "tasks.py",
    "versioneer.py",
    "runtests.py",
    "fabfile.py",
    "manage.py",
}
# What projects name among their test requirements and no test needs: checkers, builders, documentation.
_TOOLS = {
    "autopep8",
    "bandit",
    "black",
    "blurb",
    "build",
    "bump2version",
    "check-manifest",
    "cibuildwheel",
    "codecov",
    "codespell",
    "coverage",
    "coveralls",
    "cython",
    "detox",
    "docutils",
    "flake8",
    "flit",
    "furo",
    "hatch",
    "interrogate",
    "ipdb",
    "ipython",
    "isort",
    "jaraco.packaging",
    "jupyter",
    "mkdocs",
    "mypy",
    "myst-parser",
    "notebook",
    "nox",
    "pip",
    "pip-tools",
    "poetry",
    "pre-commit",
    "pydocstyle",
    "pylint",
    "pyright",
    "pytest-benchmark",
    "pytest-black",
    "pytest-checkdocs",
    "pytest-cov",
    "pytest-cover",
    "pytest-enabler",
    "pytest-flake8",
    "pytest-mypy",
    "pytest-perf",
    "pytest-randomly",
    "pytest-ruff",
    "pytest-sugar",
    "pytest-xdist",
    "python",
    "pytype",
    "pyupgrade",
    "readme-renderer",
    "rst.linker",
    "ruff",
    "setuptools",
    "setuptools-scm",
    "sphinx",
    "sphinx-lint",
    "towncrier",
    "tox",
    "tox-uv",
    "twine",
    "twisted",
    "types-setuptools",
    "typing",
    "uv",
    "virtualenv",
    "wheel",
    "zest.releaser",
}


def discover_python(tree: Path) -> Project | None:
    """Return the project in a directory, None where there are no Python tests and modules."""
    paths = sorted(str(path.relative_to(tree)) for path in tree.rglob("*.py") if path.is_file())
    tests = tuple(path for path in paths if _is_test(path))
    roots, sources = _sources(paths)
    if not tests or not sources:
        return None
    pyproject = _toml(tree / "pyproject.toml")
    info = HeaderParser().parsestr(_text(tree / "PKG-INFO"))
    about: dict[str, Any] = _table(pyproject, "project")
    setup = _ini(tree / "setup.cfg")
    name = info.get("Name") or about.get("name") or setup.get("metadata", "name", fallback="") or tree.name
    needed, wished = _requirements(tree, info.get_all("Requires-Dist") or [], pyproject, setup)
    return Project(
        name=str(name),
        version=str(info.get("Version") or about.get("version") or "0"),
        language="python",
        license=_license(info.get("License-Expression"), info.get("License"), info.get_all("Classifier") or []),
        roots=roots,
        sources=sources,
        tests=tests,
        needed=tuple(needed),
        wished=tuple(wished),
        pythons=str(info.get("Requires-Python") or about.get("requires-python") or ""),
        entry_points=_entry_points(about, setup),
        options=choosing(tree),
    )


def _is_test(path: str) -> bool:
    parts = PurePosixPath(path)
    named = parts.name.startswith("test_") or parts.stem.endswith("_test") or parts.name in ("tests.py", "test.py")
    return named and not _ASIDE & set(parts.parts[:-1])


def _sources(paths: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return where modules are imported from, and the packages and modules of the library itself."""
    listed = list(paths)
    below = next(
        (root for root in ("src", "lib") if any(re.match(rf"{root}/[^/]+(/__init__)?\.py$", p) for p in listed)), ""
    )
    found: set[str] = set()
    for path in listed:
        inner = path.removeprefix(f"{below}/") if below else path
        if below and inner == path:
            continue
        top, _, rest = inner.partition("/")
        if top in _ALONE | _ASIDE | _TESTS or _is_test(inner) or top.startswith(("test_", "_test", ".")):
            continue
        if not rest or f"{below}/{top}/__init__.py".lstrip("/") in listed or _namespace(listed, below, top):
            found.add(f"{below}/{top}".lstrip("/"))
    return (below, ".") if below else (".",), tuple(sorted(found))


def _namespace(paths: list[str], below: str, top: str) -> bool:
    start = f"{below}/{top}/".lstrip("/")
    return any(path.startswith(start) and path.endswith("/__init__.py") for path in paths) and top not in _TESTS


def _requirements(
    tree: Path, listed: list[str], pyproject: dict[str, Any], setup: configparser.ConfigParser
) -> tuple[list[str], list[str]]:
    about = _table(pyproject, "project")
    needed, wished = list[str](), list[str]()
    for text in listed or _strings(about.get("dependencies")):
        found = _requirement(text)
        if found is None:
            continue
        extra = found.marker is not None and "extra" in str(found.marker)
        if not extra and (found.marker is None or found.marker.evaluate()):
            needed.append(_plain(found))
        elif extra and any(found.marker and found.marker.evaluate({"extra": name}) for name in _TESTING):
            wished.append(_plain(found))
    ours, theirs = asked_for(_text(tree / "setup.py"), _TESTING)
    if not needed and not listed:
        needed += _many([*setup.get("options", "install_requires", fallback="").splitlines(), *ours])
    wished += _many([*_wishes(tree, pyproject, setup), *theirs])
    kept = [wish for wish in wished if not _skipped(_key(wish))]
    return needed, list(dict.fromkeys(wish for wish in kept if _key(wish) != "pytest"))


def _wishes(tree: Path, pyproject: dict[str, Any], setup: configparser.ConfigParser) -> Iterator[str]:
    """Yield what is written where projects say what their tests need."""
    optional = _table(_table(pyproject, "project"), "optional-dependencies") | _table(pyproject, "dependency-groups")
    for group, texts in optional.items():
        if group.lower() in _TESTING:
            yield from _strings(texts)
    poetry = _table(_table(pyproject, "tool"), "poetry")
    for group, table in {
        **_table(poetry, "group"),
        "dev": {"dependencies": poetry.get("dev-dependencies", {})},
    }.items():
        if group.lower() in _TESTING and isinstance(table, dict):
            yield from _table(table, "dependencies")
    if setup.has_section("options.extras_require"):
        for group, texts in setup.items("options.extras_require"):
            if group.lower() in _TESTING:
                yield from texts.splitlines()
    yield from setup.get("options", "tests_require", fallback="").splitlines()
    tox = _ini(tree / "tox.ini")
    yield from tox.get("testenv", "deps", fallback="").splitlines()
    patterns = ("*requirements*.txt", "requirements/*.txt", "tests/requirements*.txt", "test/requirements*.txt")
    for file in sorted(file for pattern in patterns for file in tree.glob(pattern)):
        if re.search(r"test|dev", str(file.relative_to(tree))):
            yield from _text(file).splitlines()


def _many(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        found = _requirement(line.partition(" #")[0].strip())
        if found and (found.marker is None or ("extra" not in str(found.marker) and found.marker.evaluate())):
            yield _plain(found)


def _requirement(text: str) -> Requirement | None:
    text = re.sub(r"^[\w,!{}.-]+:\s*", "", text.strip())  # conditions of tox
    try:
        found = Requirement(text)
    except InvalidRequirement:
        return None
    return None if found.url else found


def _plain(found: Requirement) -> str:
    extras = f"[{','.join(sorted(found.extras))}]" if found.extras else ""
    return f"{found.name}{extras}{found.specifier}"


def _key(requirement: str) -> str:
    return re.split(r"[\[<>=!~;\s]", requirement)[0].lower().replace("_", "-")


def _skipped(name: str) -> bool:
    return name in _TOOLS or name.startswith(("sphinx", "flake8", "mkdocs", "types-", "mypy"))


def _license(expression: str | None, text: str | None, classifiers: list[str]) -> str:
    named = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License ::")]
    short = text.strip() if text and "\n" not in text.strip() and len(text) < 60 else ""
    return expression or short or ", ".join(named)


def _entry_points(about: dict[str, Any], setup: configparser.ConfigParser) -> str:
    groups: dict[str, Any] = dict(_table(about, "entry-points"))
    groups["console_scripts"] = about.get("scripts")
    text = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in table.items()) + "\n"
        for group, table in groups.items()
        if isinstance(table, dict)
    )
    if text or not setup.has_section("options.entry_points"):
        return text
    return "".join(f"[{group}]\n{lines.strip()}\n\n" for group, lines in setup.items("options.entry_points"))


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError:
        return {}


def _ini(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    try:
        parser.read_string(_text(path))
    except configparser.Error:
        return configparser.ConfigParser()
    return parser


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _table(table: dict[str, Any], name: str) -> dict[str, Any]:
    found = table.get(name, {})
    return found if isinstance(found, dict) else {}


def _strings(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []

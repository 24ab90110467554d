"""The Python that tasks see: the host's interpreter and pytest alone, without the rest of our environment."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from palmette.cache import cache_dir, made_once

_DISTRIBUTIONS = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """Host directories to show in a sandbox, and the environment that makes programs find them."""

    readonly: tuple[str, ...]
    env: dict[str, str]


@cache
def python_toolchain() -> Toolchain:
    """Return Python with pytest for sandboxes; copies pytest (2 MB) to the user's cache on first use."""
    site = _site_packages()
    bin_dir = str(Path(sys.base_prefix) / "bin")
    readonly = [str(site)] if sys.base_prefix in ("/usr", "/usr/local") else [str(site), sys.base_prefix]
    env = {
        "PATH": ":".join(dict.fromkeys([bin_dir, "/usr/local/bin", "/usr/bin", "/bin"])),
        "PYTHONPATH": str(site),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    return Toolchain(readonly=tuple(readonly), env=env)


def own_python() -> str:
    """Return the version of this process's Python, as "3.11"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _site_packages() -> Path:
    """Return a directory that holds the pytest of this environment and what it needs, made atomically."""
    versions = [f"{name}{importlib.metadata.version(name)}" for name in _DISTRIBUTIONS]
    tag = f"py{sys.version_info.major}{sys.version_info.minor}"
    return made_once(cache_dir("toolchain", "-".join([tag, *versions])), _copy_distributions)


def _copy_distributions(into: Path) -> None:
    for name in _DISTRIBUTIONS:
        for file in importlib.metadata.files(name) or ():
            source = Path(str(file.locate()))
            if ".." in file.parts or "__pycache__" in file.parts or not source.is_file():
                continue
            copy = into / Path(*file.parts)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    _compile(into)


def _compile(directory: Path) -> None:
    """Write bytecode that does not look at time stamps: sandboxes see the files read only."""
    import compileall
    from py_compile import PycInvalidationMode

    compileall.compile_dir(directory, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)

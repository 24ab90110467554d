"""A small root file system, made of this machine's own programs, and an empty store of images."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from palmette.sandbox.images import Images

_PROGRAMS = "sh cat chmod chown cp cut date dd env false grep head id ln ls mkdir mknod mount mv rm sed seq sleep sort"
_PROGRAMS += " stat tail tar touch tr true uname wc"


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with /bin/sh, some thirty programs and the libraries they need."""
    root = tmp_path_factory.mktemp("small") / "root"
    for name in ("usr/bin", "etc", "opt", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\n")
    (root / "etc" / "base").write_text("of the base\n")
    for program in _PROGRAMS.split():
        found = shutil.which(program)
        assert found, program
        shutil.copy(found, root / "usr" / "bin" / program)
        listing = subprocess.run(["ldd", found], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listing):
            copy = root / library.lstrip("/")
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, copy)
    return root


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Images]:
    """An empty store, which is also where the rest of the program looks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = Images()
    yield store
    store.close()

"""The fork server: compiled once with the system's C compiler and kept in a cache under the hash of its sources."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from palmette.sandbox.api import StartFailed

SOURCES = Path(__file__).parent / "native"
FLAGS = ("-std=gnu11", "-O2")
_LIBRARY = ("-shared", "-fPIC", "-nostartfiles")  # what a waiting shell loads; it goes into the program as it is


def fork_server() -> Path:
    """Return the compiled fork server, compiling it if no cache has it (about a second).

    Raises `StartFailed` where there is no compiler or the sources do not compile.
    """
    name, directories = _name(), list(_caches())
    if found := _found(name, directories):
        return found
    for directory in directories:
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            return _compile(directory / name)
        except OSError:
            continue
    raise StartFailed(f"no directory to keep the compiled fork server in (tried {', '.join(map(str, directories))})")


def buildable() -> bool:
    """Whether `fork_server` has something to return, or a compiler to make it with."""
    return compiler() is not None or _found(_name(), list(_caches())) is not None


def compiler() -> str | None:
    """Return the path of the C compiler: $CC, cc, gcc or clang."""
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _name() -> str:
    digest = hashlib.sha256("\0".join((platform.machine(), *FLAGS)).encode())
    for source in sorted(SOURCES.rglob("*.[ch]")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return f"forkserver-{digest.hexdigest()[:16]}"


def _found(name: str, directories: Sequence[Path]) -> Path | None:
    return next((path for directory in directories if os.access(path := directory / name, os.X_OK)), None)


def _caches() -> Iterator[Path]:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(home):
        yield Path(home) / "palmette"
    fallback = Path(tempfile.gettempdir()) / f"palmette-{os.getuid()}"
    if not fallback.exists() or fallback.lstat().st_uid == os.getuid():  # nobody else may plant a program there
        yield fallback


def _compile(target: Path) -> Path:
    cc = compiler()
    if cc is None:
        raise StartFailed(
            "the namespace sandbox needs a C compiler: install gcc (cc), or use the host 'bubblewrap', which is "
            "weaker, or 'fake' for trusted code"
        )
    sources = list(map(str, sorted(SOURCES.glob("*.c"))))
    with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent) as scratch:
        library, program = Path(scratch, "sh.so"), Path(scratch, "program")
        wanted = (*_LIBRARY, "-o", str(library), str(SOURCES / "preload" / "sh.c"), str(SOURCES / "packet.c"))
        preload = () if _run(cc, *wanted).returncode else (f'-DPRELOAD="{library}"',)
        for link in (("-static",), ()):  # static where libc.a is there: smaller processes, no loader
            done = _run(cc, *link, *preload, "-o", str(program), *sources)
            if done.returncode == 0:
                os.chmod(program, 0o755)
                os.rename(program, target)
                return target
    lines = done.stderr.strip().splitlines() or ["no message"]
    first = next((line for line in lines if "error" in line), lines[-1])
    raise StartFailed(f"{cc} cannot compile the fork server: {first}")


def _run(cc: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([cc, *FLAGS, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)

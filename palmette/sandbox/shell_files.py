"""Files of a sandbox that can only be reached by running commands in it: sh, cat and tar, as its own user.

Paths are resolved by the sandbox's own kernel view, so a symlink leads nowhere else; what comes back is data and never
trusted: archives are taken apart and put together again here.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Awaitable, Callable, Sequence

from palmette.sandbox.api import PathRefused, Result

_OVERHEAD = 8 << 20
Run = Callable[[Sequence[str], bytes, int], Awaitable[Result]]
_READ = 'test -f "$1" || { echo "not a regular file" >&2; exit 1; }; exec head -c "$2" -- "$1"'
_WRITE = """
test ! -e "$1" || test -f "$1" || { echo "not a regular file" >&2; exit 1; }
mkdir -p -- "$(dirname -- "$1")" && cat > "$1" && chmod "$2" -- "$1"
"""
_UNPACK = 'mkdir -p -- "$1" && exec tar -x -p -f - -C "$1" --overwrite --no-same-owner'
_PACK = """
if test -d "$1"; then tar -c -f - -C "$1" . | head -c "$2"
elif test -f "$1"; then tar -c -f - -C "$(dirname -- "$1")" -- "$(basename -- "$1")" | head -c "$2"
else echo "neither a regular file nor a directory" >&2; exit 1; fi
"""


class ShellFiles:
    """Reads and writes through `run(argv, stdin, output limit in bytes)`; as `Files` otherwise."""

    def __init__(self, run: Run, *, workdir: str, limit_bytes: int) -> None:
        self._run = run
        self._workdir = workdir
        self._limit_bytes = limit_bytes

    async def read(self, path: str) -> bytes:
        """Return a regular file's bytes. Raises `PathRefused`."""
        data = await self._script(_READ, path, str(self._limit_bytes + 1))
        self._check(len(data), path)
        return data

    async def write(self, path: str, data: bytes, mode: int) -> None:
        """Write a file and set its mode, making parents. Raises `PathRefused`."""
        await self._script(_WRITE, path, f"{mode & 0o777:o}", stdin=data)

    async def unpack(self, archive: bytes, path: str) -> None:
        """Unpack a tar below `path`. Raises `PathRefused`."""
        await self._script(_UNPACK, path, stdin=rebuilt(archive, path, strict=True))

    async def pack(self, path: str) -> bytes:
        """Return a directory or file as a tar: names sorted, times and owners zero. Raises `PathRefused`."""
        most = 2 * self._limit_bytes + _OVERHEAD  # headers and padding of many small files
        archive = await self._script(_PACK, path, str(most))
        if len(archive) >= most:
            self._check(most, path)
        whole = rebuilt(archive, path)
        with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
            self._check(sum(member.size for member in tar), path)
        return whole

    def _check(self, size: int, path: str) -> None:
        if size > self._limit_bytes:
            raise PathRefused(f"{path}: more than the limit of {self._limit_bytes} bytes")

    async def _script(self, script: str, path: str, *words: str, stdin: bytes = b"") -> bytes:
        argv = ["/bin/sh", "-c", script, "sh", inside(path, self._workdir), *words]
        result = await self._run(argv, stdin, 2 * self._limit_bytes + _OVERHEAD)
        if result.exit_code:
            said = result.stderr.decode(errors="replace").strip().splitlines() or [f"exit {result.exit_code}"]
            raise PathRefused(f"{path}: {said[-1].rpartition(': ')[2]}")
        return result.stdout


def inside(path: str, workdir: str) -> str:
    """Return `path` as an absolute one. Raises `PathRefused` for one that climbs out by its very words."""
    if "\0" in path or len(path.encode()) >= 4096:
        raise PathRefused(f"{path[:80]!r}: not a valid path")
    return "/" + _beneath(path if path.startswith("/") else f"{workdir}/{path}", path)


def _beneath(name: str, shown: str) -> str:
    depth: list[str] = []
    for part in name.split("/"):
        if part == ".." and not depth:
            raise PathRefused(f"{shown}: climbs out of the sandbox")
        if part == "..":
            depth.pop()
        elif part not in ("", "."):
            depth.append(part)
    return posixpath.join("", *depth)


def rebuilt(archive: bytes, path: str, *, strict: bool = False) -> bytes:
    """Return the directories, regular files and symlinks of a tar, sorted, without times and owners.

    Anything else is left out, or with `strict` refused. Raises `PathRefused`, also for names that lead out.
    """
    out = io.BytesIO()
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:*") as tar, tarfile.open(fileobj=out, mode="w") as copy:
            for member in sorted(tar, key=lambda each: each.name.split("/")):
                if member.name.startswith("/"):
                    raise PathRefused(f"{member.name}: an absolute name in an archive")
                name = _beneath(member.name, member.name)
                ordinary = member.isdir() or member.issym() or member.isfile() or member.islnk()
                if strict and not ordinary:
                    raise PathRefused(f"{member.name}: neither a file, a directory nor a symlink")
                if not name or not ordinary:
                    continue
                info = tarfile.TarInfo(name)
                info.mode = member.mode & 0o777
                info.type = (
                    tarfile.DIRTYPE if member.isdir() else tarfile.SYMTYPE if member.issym() else tarfile.REGTYPE
                )
                info.linkname = member.linkname if member.issym() else ""
                source = tar.extractfile(member) if info.type == tarfile.REGTYPE else None
                data = source.read() if source else b""
                info.size = len(data)
                copy.addfile(info, io.BytesIO(data))
    except (tarfile.TarError, KeyError) as error:
        raise PathRefused(f"{path}: not a readable tar archive ({error})") from None
    return out.getvalue()

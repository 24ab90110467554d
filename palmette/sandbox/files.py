"""Files of a sandbox, reached from the host through one directory descriptor and never through a path of the host.

Every path is resolved by the kernel below the sandbox's root (``openat2`` with RESOLVE_IN_ROOT), so a symlink that the
sandbox plants, or swaps while we look, leads to another place in the same sandbox and nowhere else.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from palmette.sandbox.api import PathRefused

_SYS_OPENAT2 = 437
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _IN_ROOT = 0x01, 0x02, 0x04, 0x08, 0x10
_PATH_MAX = 4096


class Files:
    """Reads and writes below `root_fd` (owned by this object), which is the sandbox's ``/``.

    `owner` is the (uid, gid) given to whatever is made, None to leave it; `limit_bytes` bounds what one read or
    download may return. Methods block; they raise `PathRefused` for a path that climbs out, is no regular file, does
    not exist, or cannot be written.
    """

    def __init__(self, root_fd: int, *, workdir: str, owner: tuple[int, int] | None, limit_bytes: int) -> None:
        self._root = root_fd
        self._workdir = workdir
        self._owner = owner
        self._limit_bytes = limit_bytes
        self._device = os.fstat(root_fd).st_dev
        try:
            self._proc = os.stat("proc", dir_fd=root_fd, follow_symlinks=False).st_dev
        except OSError:
            self._proc = -1
        if self._proc == self._device:
            self._proc = -1

    def close(self) -> None:
        """Let go of the root. Idempotent."""
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    def used_bytes(self) -> int:
        """Return how much the file system behind the root holds."""
        state = os.fstatvfs(self._root)
        return (state.f_blocks - state.f_bfree) * state.f_frsize

    def full(self) -> bool:
        """Return whether the file system behind the root has no byte or no inode left."""
        state = os.fstatvfs(self._root)
        return not (state.f_bavail and state.f_favail)

    def read(self, path: str) -> bytes:
        """Return the bytes of a regular file."""
        name = self._inside(path)
        with _refusing(path), _opened(self._root, name, os.O_RDONLY, _IN_ROOT) as fd:
            return self._content(fd, path)

    def write(self, path: str, data: bytes, mode: int) -> None:
        """Write a file and set its mode; parents are made, an existing file is overwritten in place."""
        name = self._inside(path)
        with _refusing(path):
            try:
                with _opened(self._root, name, os.O_WRONLY, _IN_ROOT | _NO_XDEV) as fd:
                    if not stat.S_ISREG(os.fstat(fd).st_mode):
                        raise PathRefused(f"{path}: not a regular file")
                    os.ftruncate(fd, 0)
                    self._fill(fd, data, mode)
            except FileNotFoundError:
                self._place(name, data, mode)

    def unpack(self, archive: bytes, path: str) -> None:
        """Unpack a tar below `path`: directories, regular files and symlinks; anything else is refused."""
        base = self._inside(path)
        try:
            with tarfile.open(fileobj=io.BytesIO(archive), mode="r:*") as tar:
                members = [(_below(base, m.name, path), m) for m in tar]
                with _refusing(path):
                    os.close(self._directory(base))
                for name, member in members:
                    with _refusing(member.name):
                        self._extract(tar, member, name)
        except tarfile.TarError as error:
            raise PathRefused(f"{path}: not a readable tar archive ({error})") from None

    def pack(self, path: str) -> bytes:
        """Return a directory (names relative to it) or one file as a tar: names sorted, times and owners zero.

        Sockets, devices, fifos and other mounts are left out.
        """
        name = self._inside(path)
        out = io.BytesIO()
        with (
            _refusing(path),
            tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar,
            _opened(self._root, name, os.O_RDONLY, _IN_ROOT) as top,
        ):
            info = os.fstat(top)
            if stat.S_ISREG(info.st_mode):
                _add(tar, posixpath.basename(name), info.st_mode, self._content(top, path))
            elif stat.S_ISDIR(info.st_mode) and info.st_dev != self._proc:
                self._pack_tree(tar, top, info.st_dev, path)
            else:
                raise PathRefused(f"{path}: neither a regular file nor a directory")
        return out.getvalue()

    def _pack_tree(self, tar: tarfile.TarFile, top: int, device: int, path: str) -> None:
        total = 0
        for name, info, parent, leaf in _walk(top, device):
            if stat.S_ISDIR(info.st_mode):
                _add(tar, name, info.st_mode, None)
            elif stat.S_ISLNK(info.st_mode):
                _add(tar, name, info.st_mode, None, target=os.readlink(leaf, dir_fd=parent))
            elif stat.S_ISREG(info.st_mode):
                try:
                    with _opened(parent, leaf, os.O_RDONLY, _NO_SYMLINKS | _BENEATH) as fd:
                        data = self._content(fd, name)
                except FileNotFoundError:  # a process of the sandbox removed it meanwhile
                    continue
                total += len(data)
                if total > self._limit_bytes:
                    raise PathRefused(f"{path}: more than {self._limit_bytes} bytes to download")
                _add(tar, name, info.st_mode, data)

    def _content(self, fd: int, path: str) -> bytes:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise PathRefused(f"{path}: not a regular file")
        if info.st_dev != self._device and (info.st_dev == self._proc or not info.st_mode & stat.S_IROTH):
            raise PathRefused(f"{path}: not readable")  # the host may read more than the sandbox's user
        if info.st_size > self._limit_bytes:
            raise PathRefused(f"{path}: {info.st_size} bytes, more than the limit of {self._limit_bytes}")
        chunks, size = [], 0
        while chunk := os.read(fd, min(1 << 20, self._limit_bytes - size + 1)):
            size += len(chunk)
            if size > self._limit_bytes:
                raise PathRefused(f"{path}: grew past the limit of {self._limit_bytes} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    def _extract(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        if member.isdir():
            fd = self._directory(name)
            try:
                os.chmod(f"/proc/self/fd/{fd}", member.mode & 0o777)
            finally:
                os.close(fd)
        elif member.issym():
            with self._parent(name) as (parent, leaf):
                _remove(parent, leaf)
                os.symlink(member.linkname, leaf, dir_fd=parent)
                if self._owner:
                    os.chown(leaf, *self._owner, dir_fd=parent, follow_symlinks=False)
        elif (source := tar.extractfile(member)) is not None:  # regular, or a hard link to one
            self._place(name, source.read(), member.mode & 0o777)
        else:
            raise PathRefused(f"{member.name}: neither a file, a directory nor a symlink")

    def _place(self, name: str, data: bytes, mode: int) -> None:
        with self._parent(name) as (parent, leaf):
            _remove(parent, leaf)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(leaf, flags, 0o600, dir_fd=parent)
            try:
                self._fill(fd, data, mode)
            finally:
                os.close(fd)

    def _fill(self, fd: int, data: bytes, mode: int) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fchmod(fd, mode & 0o777)
        if self._owner:
            os.fchown(fd, *self._owner)

    @contextmanager
    def _parent(self, name: str) -> Iterator[tuple[int, str]]:
        parent, leaf = posixpath.split(name)
        if not leaf or leaf == ".":
            raise PathRefused(f"/{name}: names a directory")
        fd = self._directory(parent or ".")
        try:
            yield fd, leaf
        finally:
            os.close(fd)

    def _directory(self, name: str) -> int:
        """Return a descriptor (O_PATH) of the directory `name`, making what is missing."""
        flags = os.O_PATH | os.O_DIRECTORY
        try:
            return _openat2(self._root, name, flags, _IN_ROOT | _NO_XDEV)
        except FileNotFoundError:
            pass
        done, fd = ".", _openat2(self._root, ".", flags, _IN_ROOT)
        for part in name.split("/"):
            done = posixpath.join(done, part)
            try:
                try:
                    os.mkdir(part, 0o755, dir_fd=fd)
                    if self._owner:
                        os.chown(part, *self._owner, dir_fd=fd, follow_symlinks=False)
                except FileExistsError:
                    pass
            finally:
                os.close(fd)
            fd = _openat2(self._root, done, flags, _IN_ROOT | _NO_XDEV)
        return fd

    def _inside(self, path: str) -> str:
        """Return `path` relative to the root, refusing one that climbs out by its very words."""
        if self._root < 0:
            raise PathRefused(f"{path}: the sandbox is closed")
        return _below("", path if path.startswith("/") else f"{self._workdir}/{path}", path, absolute=True)


def _below(base: str, name: str, shown: str, *, absolute: bool = False) -> str:
    if "\0" in name or len(os.fsencode(name)) >= _PATH_MAX:
        raise PathRefused(f"{shown[:80]!r}: not a valid path")
    if name.startswith("/") and not absolute:
        raise PathRefused(f"{name}: an absolute name in an archive")
    depth: list[str] = []
    for part in name.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            if not depth:
                raise PathRefused(f"{shown}: climbs out of the sandbox")
            depth.pop()
        else:
            depth.append(part)
    return posixpath.join(base, *depth) or "."


def _walk(top: int, device: int) -> Iterator[tuple[str, os.stat_result, int, str]]:
    """Yield (name, stat, descriptor of its directory, last part) of all below `top` on `device`, parents first."""
    pending = ["."]
    while pending:
        directory = pending.pop()
        if len(os.fsencode(directory)) >= _PATH_MAX:
            raise PathRefused(f"{directory[:80]}...: too deep to download")
        try:
            fd = _openat2(top, directory, os.O_RDONLY | os.O_DIRECTORY, _NO_SYMLINKS | _BENEATH)
        except FileNotFoundError:
            continue
        try:
            below = []
            for leaf in sorted(os.listdir(fd)):
                try:
                    info = os.stat(leaf, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if info.st_dev != device:
                    continue
                name = leaf if directory == "." else f"{directory}/{leaf}"
                yield name, info, fd, leaf
                if stat.S_ISDIR(info.st_mode):
                    below.append(name)
            pending.extend(reversed(below))
        finally:
            os.close(fd)


def _add(tar: tarfile.TarFile, name: str, mode: int, data: bytes | None, *, target: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(mode)
    info.type = tarfile.SYMTYPE if target else tarfile.REGTYPE if data is not None else tarfile.DIRTYPE
    info.linkname = target
    info.size = len(data) if data is not None else 0
    tar.addfile(info, io.BytesIO(data) if data is not None else None)


def _remove(parent: int, leaf: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(leaf, dir_fd=parent)


@contextmanager
def _refusing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PathRefused(f"{path}: {os.strerror(error.errno or errno.EIO)}") from error


@contextmanager
def _opened(root: int, name: str, flags: int, resolve: int) -> Iterator[int]:
    # non-blocking: opening a fifo must not wait for its other end
    fd = _openat2(root, name, flags | os.O_NONBLOCK | os.O_NOCTTY, resolve)
    try:
        yield fd
    finally:
        os.close(fd)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def _openat2(root: int, name: str, flags: int, resolve: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve | _NO_MAGICLINKS)
    code = errno.EAGAIN
    for _ in range(64):  # EAGAIN: a rename raced with the walk and the kernel asks to try again
        fd = _libc.syscall(_SYS_OPENAT2, root, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), name)

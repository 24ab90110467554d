"""The files of sandboxes from outside, through their roots: open while they are used, let go of when there are many."""

from __future__ import annotations

from collections.abc import Callable

from palmette.sandbox.files import Files

ROOTS = 256  # of one host that are kept open


class Roots:
    """Which sandboxes of a host have their root open, the one used last at the end."""

    def __init__(self, most: int = ROOTS) -> None:
        self._most = most
        self._open: dict[Reach, None] = {}

    def used(self, reach: Reach) -> None:
        """Note that one is used; the one that was not for longest may have to let go."""
        self._open.pop(reach, None)
        self._open[reach] = None
        if len(self._open) > self._most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            if not oldest.let_go():  # in use, or not to be had again: another time
                self._open[oldest] = None

    def forget(self, reach: Reach) -> None:
        """Take one off the list. Idempotent."""
        self._open.pop(reach, None)

    def __len__(self) -> int:
        return len(self._open)


class Reach:
    """Leads to the files of one sandbox; `reopen()` returns a descriptor of its root, or raises `OSError`.

    `below(root)` makes `Files` of that, which own it.
    """

    def __init__(self, roots: Roots, reopen: Callable[[], int], below: Callable[[int], Files]) -> None:
        self._roots = roots
        self._reopen = reopen
        self._below = below
        self._files: Files | None = None
        self.working = 0  # transfers under way

    def replace(self, root: int) -> Files | None:
        """Use this root (owned here from now on); return the files of the one before, to be closed."""
        old, self._files = self._files, self._below(root)
        self._roots.used(self)
        return old

    def files(self) -> Files:
        """Return the files, open until the next call of something here. Raises `OSError` when the sandbox is gone."""
        if self._files is None:
            self._files = self._below(self._reopen())
        self._roots.used(self)
        return self._files

    def used_bytes(self) -> int:
        """Return what its file system holds, 0 when that cannot be known any more."""
        if self._files is not None:
            return self._files.used_bytes()
        try:
            files = self._below(self._reopen())
        except OSError:
            return 0
        try:
            return files.used_bytes()
        finally:
            files.close()

    def full(self) -> bool:
        """Return whether no byte or no inode is left, False when that cannot be known any more."""
        try:
            return self.files().full()
        except OSError:
            return False

    def let_go(self) -> bool:
        """Close the root, if it is idle and can be had again."""
        if self.working:
            return False
        try:
            again = self._below(self._reopen())
        except OSError:  # rootless, or a container without CAP_SYS_PTRACE
            return False
        again.close()
        self.close()
        return True

    def close(self) -> None:
        """Close the root. Idempotent."""
        self._roots.forget(self)
        if self._files is not None:
            self._files.close()
            self._files = None

"""The run directory: what a run leaves on disk, all of it readable without this program.

    runs/<name>/  config.toml  git.txt  seed  metrics.jsonl  stages/*.json  logs/attempt_N/  trees/  checkpoints/

Also here because every area needs them: atomic writes and seeds; recipes are read by `palmette.config`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import json
import math
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel

import palmette
from palmette.config import find_recipe, load_recipe
from palmette.errors import UserError, suggest
from palmette.toml import dump_toml

__all__ = ["RunDir", "State", "dump_toml", "find_recipe", "load_recipe", "seed_everything", "write_atomic"]

State = Literal["new", "running", "interrupted", "failed", "finished"]
_STAGE_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")
_counter = itertools.count()


class RunDir:
    """One run on disk.

    Made by `create` or `open`; the process that works on it holds `attempt` meanwhile, and any number of others may
    read. Files are replaced atomically, `metrics.jsonl` is appended to line by line.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._log_dir: Path | None = None

    @classmethod
    def create(cls, path: Path, resolved_config: BaseModel | str, *, seed: int = 0) -> RunDir:
        """Make the directory with its config (TOML), `git.txt` and seed, all or nothing.

        Raises `UserError` if there is something at `path` already.
        """
        path = Path(path)
        text = resolved_config if isinstance(resolved_config, str) else dump_toml(resolved_config)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            fresh.mkdir(parents=True)
            write_atomic(fresh / "config.toml", text)
            write_atomic(fresh / "git.txt", _describe_source())
            write_atomic(fresh / "seed", f"{seed}\n")
            for name in ("stages", "logs", "trees", "checkpoints"):
                (fresh / name).mkdir()
            fresh.rename(path)  # takes the place of an empty directory, and of nothing else
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if path.exists():
                raise UserError(f"{path} is there already; choose another name") from None
            if isinstance(error, PermissionError | NotADirectoryError):
                raise UserError(f"{path} cannot be made: {error.strerror}") from None
            raise
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Return the run at `path`. Raises `UserError` naming the nearest run when there is none."""
        path = Path(path)
        if not (path / "config.toml").is_file():
            around = path.parent.glob("*/config.toml") if path.parent.is_dir() else ()
            near = suggest(path.name, [each.parent.name for each in around])
            what = "is not a run directory (no config.toml)" if path.exists() else "does not exist"
            raise UserError(f"{path} {what}{near}")
        return cls(path)

    @property
    def name(self) -> str:
        """Name of the run: that of its directory."""
        return self.path.name

    @property
    def config_path(self) -> Path:
        """The resolved recipe, every value written out."""
        return self.path / "config.toml"

    @property
    def seed(self) -> int:
        """The seed the run was created with."""
        return int((self.path / "seed").read_text())

    @property
    def log_dir(self) -> Path:
        """``logs/attempt_N`` of the attempt under way, otherwise of the latest one; it exists."""
        number = max(self._attempt_numbers(), default=1)
        log_dir = self._log_dir or self.path / "logs" / f"attempt_{number}"
        log_dir.mkdir(parents=True, exist_ok=True)
        return log_dir

    @property
    def state(self) -> State:
        """How the latest attempt stands; a process that died without a word leaves `interrupted`."""
        numbers = self._attempt_numbers()
        if not numbers:
            return "new"
        record = _read_json(self.path / "logs" / f"attempt_{max(numbers)}" / "attempt.json") or {}
        if "ended" in record:
            return record["ended"]
        return "running" if self._is_locked() else "interrupted"

    @contextlib.contextmanager
    def attempt(self) -> Iterator[Path]:
        """Hold the run while working on it; yields ``logs/attempt_N``.

        The lock is the kernel's (flock), so a dead process never leaves a stale one. How the attempt ended is written
        to its ``attempt.json``. Raises `UserError` naming the process that works on this run already.
        """
        with self._locked():
            number = max(self._attempt_numbers(), default=0) + 1
            self._log_dir = self.path / "logs" / f"attempt_{number}"
            log_dir = self.log_dir
            record: dict[str, Any] = {
                "started": _now(),
                "pid": os.getpid(),
                "host": platform.node(),
                "argv": sys.argv,
                "palmette": palmette.__version__,
            }
            write_atomic(log_dir / "attempt.json", json.dumps(record, indent=1))
            _cut_torn_line(self.path / "metrics.jsonl")
            ended: State = "failed"
            try:
                yield log_dir
                ended = "finished"
            except (KeyboardInterrupt, asyncio.CancelledError):
                ended = "interrupted"
                raise
            except BaseException as error:
                record["error"] = f"{type(error).__name__}: {error}"
                raise
            finally:
                record |= {"ended": ended, "ended_at": _now()}
                with contextlib.suppress(OSError):  # a full disk must not hide the error that tells of it
                    write_atomic(log_dir / "attempt.json", json.dumps(record, indent=1))
                self._log_dir = None

    def metrics(self, stage: str, step: int, **numbers: float | int | str | bool | None) -> None:
        """Append one line to `metrics.jsonl`; numbers that are not finite are written as null."""
        row = {"time": round(time.time(), 3), "stage": stage, "step": step}
        row |= {key: _plain(value) for key, value in numbers.items()}
        line = json.dumps(row, allow_nan=False) + "\n"
        with (self.path / "metrics.jsonl").open("ab", buffering=0) as file:
            file.write(line.encode())

    def read_metrics(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Return the rows of `metrics.jsonl` in order of first appearance, one a (stage, step).

        A step that was logged twice (after a resume, or in two calls) is one row in which later values win.
        """
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        path = self.path / "metrics.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a process that was killed
                row = json.loads(line)
                rows.setdefault((row["stage"], row["step"]), {}).update(row)
        return [row for row in rows.values() if stage is None or row["stage"] == stage]

    def stage_done(self, name: str) -> bool:
        """Whether the stage has finished, in this attempt or an earlier one."""
        return self._stage_path(name).is_file()

    def finish_stage(self, name: str, summary: Mapping[str, Any]) -> None:
        """Write ``stages/<name>.json``: from now on `stage_done` holds, also after a crash."""
        record = {"stage": name, "finished_at": _now(), "summary": dict(summary)}
        write_atomic(self._stage_path(name), json.dumps(record, indent=1))

    def stage_summary(self, name: str) -> dict[str, Any]:
        """Return the summary given to `finish_stage`. Raises `ValueError` if the stage has not finished."""
        record = _read_json(self._stage_path(name))
        if record is None:
            raise ValueError(f"stage {name} of {self.path} has not finished")
        return record["summary"]

    def stages(self) -> list[str]:
        """Return the names of the finished stages, oldest first."""
        records = [_read_json(path) for path in (self.path / "stages").rglob("*.json")]
        finished = [record for record in records if record is not None]
        return [each["stage"] for each in sorted(finished, key=lambda each: each["finished_at"])]

    def _stage_path(self, name: str) -> Path:
        if not _STAGE_NAME.fullmatch(name):
            raise ValueError(f"not a stage name: {name!r}")
        return self.path / "stages" / f"{name}.json"

    def _attempt_numbers(self) -> list[int]:
        found = (re.fullmatch(r"attempt_(\d+)", path.name) for path in (self.path / "logs").glob("attempt_*"))
        return [int(match[1]) for match in found if match]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.path / "lock").open("a+") as file:
            if not (_try_lock(file) or time.sleep(0.1) or _try_lock(file)):  # a reader of `state` holds it a moment
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise UserError(f"{self.path} is being worked on by {holder}; wait for it or stop it")
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()} since {_now()}\n")
            file.flush()
            yield

    def _is_locked(self) -> bool:
        with contextlib.suppress(FileNotFoundError), (self.path / "lock").open("rb") as file:
            return not _try_lock(file)
        return False


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader, or a crash at any moment, finds the old content or the new, never a part.

    Parent directories are made. Raises `OSError` and then leaves nothing behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{next(_counter)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)  # the rename itself must survive a power cut


def sync(path: Path) -> None:
    """Return when a file, or the names in a directory, would survive a power cut. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators (what is drawn from its own generator is not touched)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _try_lock(file: IO[Any]) -> bool:
    """Take the lock until `file` is closed; return False when another holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _plain(value: Any) -> Any:
    """Return a JSON value; numpy and torch scalars become Python numbers."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_bytes()) if path.is_file() else None


def _cut_torn_line(path: Path) -> None:
    """Drop what a killed process left after the last line end, so that the next line starts clean."""
    if path.is_file() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def _describe_source() -> str:
    """Return commit and uncommitted changes of the checkout the package lies in, or its version alone."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        answer = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, timeout=10, check=True)
        return answer.stdout.decode(errors="replace")

    lines = [f"palmette {palmette.__version__}, python {platform.python_version()}, {platform.platform()}"]
    try:
        lines += [f"commit {git('rev-parse', 'HEAD').strip()}", git("status", "--short"), git("diff", "HEAD")]
    except (OSError, subprocess.SubprocessError):
        lines.append("not a git checkout")
    return "\n".join(lines).rstrip()[: 1 << 20] + "\n"

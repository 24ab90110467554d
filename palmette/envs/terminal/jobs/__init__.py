"""The families of jobs. Those of `HELDOUT` are never seen in training; to add one, write it and add it to a tuple."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from palmette.envs.api import Split
from palmette.envs.terminal.goals import Names
from palmette.envs.terminal.job import Job
from palmette.envs.terminal.jobs import data, files, history, programs

TRAIN: tuple[Callable[[Names], Job], ...] = (
    data.errors_by_path,
    data.slowest,
    data.totals,
    data.encoding,
    data.settings,
    files.configuration_archive,
    files.permissions,
    files.duplicates,
    files.patch,
    history.recover,
    history.blame,
    programs.makefile,
    programs.service,
    programs.rotate,
    programs.parallel,
)
HELDOUT: tuple[Callable[[Names], Job], ...] = (
    data.records,
    files.release,
    files.checksums,
    history.merge,
    programs.due,
)
FAMILIES: Mapping[Split, tuple[Callable[[Names], Job], ...]] = {"train": TRAIN, "heldout": HELDOUT}

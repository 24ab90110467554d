"""Reads the part of Dockerfiles that is understood here: FROM, ARG, ENV, WORKDIR, COPY, ADD of local files, RUN.

What says nothing about files (CMD, EXPOSE, LABEL, MAINTAINER, STOPSIGNAL) is passed over; anything else is refused by
name, with what to do instead. Reference: https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

import glob
import json
import os
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from palmette.errors import UserError

_PASSED_OVER = {"CMD", "EXPOSE", "LABEL", "MAINTAINER", "STOPSIGNAL"}
_INSTEAD = {
    "ENTRYPOINT": "start services from the task's tests, or with RUN a script that the agent starts",
    "HEALTHCHECK": "put it into [environment.healthcheck] of task.toml",
    "ONBUILD": "write the instruction out",
    "SHELL": "name the shell in RUN: RUN bash -c '...'",
    "USER": "sandboxes run as their own user already; drop the line, or use RUN su",
    "VOLUME": "every directory of a sandbox is its own already; drop the line",
}
_VARIABLE = re.compile(r"\\\$|\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A command to run as root while building; `arguments` (ARG) are variables only for it."""

    argv: tuple[str, ...]
    arguments: Mapping[str, str]
    env: Mapping[str, str]
    workdir: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One file or directory of the context to put at `target`, absolute; of a directory, what is in it."""

    source: Path
    target: str
    env: Mapping[str, str]
    workdir: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """A Dockerfile: the name of its base, what to do in order, and what commands are given in the end."""

    path: Path
    base: str
    steps: tuple[Run | Copy, ...]
    env: Mapping[str, str]
    workdir: str  # "/" where none is named

    @property
    def copies(self) -> tuple[Copy, ...]:
        """What is copied after the last command."""
        return tuple(step for step in self.steps[len(self.built.steps) :] if isinstance(step, Copy))

    @property
    def built(self) -> Dockerfile:
        """The file up to its last command, which is what many tasks share; without steps if nothing is run."""
        last = max((n for n, step in enumerate(self.steps, 1) if isinstance(step, Run)), default=0)
        if not last:
            return replace(self, steps=())
        return replace(
            self, steps=self.steps[:last], env=self.steps[last - 1].env, workdir=self.steps[last - 1].workdir
        )


def read_dockerfile(path: Path) -> Dockerfile:
    """Return what the Dockerfile at `path` says; its directory is the context.

    Raises `UserError` naming the line and instruction that is outside the subset, and what to write instead.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    reader = _Reader(path)
    for number, line in _lines(text):
        word, _, rest = line.partition(" ")
        try:
            reader.take(word.upper(), rest.strip(), number)
        except ValueError as error:
            raise UserError(f"{path}:{number}: {word.upper()}: {error}") from None
    if not reader.base:
        raise UserError(f"{path}: no FROM; start with 'FROM host', or with the name of an image")
    return Dockerfile(
        path=path, base=reader.base, steps=tuple(reader.steps), env=dict(reader.env), workdir=reader.workdir or "/"
    )


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.base = self.workdir = ""
        self.env: dict[str, str] = {}
        self.arguments: dict[str, str] = {}
        self.steps: list[Run | Copy] = []

    def take(self, word: str, rest: str, line: int) -> None:
        """Follow one instruction; `ValueError` says what is wrong with it."""
        if word in _PASSED_OVER:
            return
        if not self.base and word not in ("FROM", "ARG"):
            raise ValueError("stands before FROM")
        match word:
            case "FROM":
                self._from(rest)
            case "ARG":
                name, _, value = self._expanded(rest).partition("=")
                self.arguments[name] = value.strip("\"'")
            case "ENV":
                self.env.update(self._pairs(rest))
            case "WORKDIR":
                self.workdir = posixpath.normpath(posixpath.join(self.workdir or "/", self._expanded(rest)))
            case "COPY" | "ADD":
                self.steps += self._copies(word, rest, line)
            case "RUN":
                arguments, env = dict(self.arguments), dict(self.env)
                place = self.workdir or "/"
                self.steps.append(Run(argv=_argv(rest), arguments=arguments, env=env, workdir=place, line=line))
            case "USER" if rest in ("root", "0", "root:root", "0:0"):
                return
            case _:
                instead = _INSTEAD.get(word, "use FROM, ARG, ENV, WORKDIR, COPY and RUN")
                raise ValueError(f"is outside the subset of Dockerfiles understood here; {instead}")

    def _from(self, rest: str) -> None:
        words = self._expanded(rest).split()
        if self.base:
            raise ValueError("builds in several stages are not understood; copy what the last stage needs")
        if len(words) not in (1, 3) or words[0].startswith("--") or (len(words) == 3 and words[1].upper() != "AS"):
            raise ValueError("takes the name of one image")
        self.base = words[0]

    def _pairs(self, rest: str) -> dict[str, str]:
        if "=" not in rest.split(None, 1)[0]:  # the old form: ENV NAME everything else
            name, _, value = rest.partition(" ")
            return {name: self._expanded(value.strip())}
        pairs: dict[str, str] = {}
        for word in shlex.split(self._expanded(rest)):
            variable, _, value = word.partition("=")
            pairs[variable] = value
        if "" in pairs or not all(re.fullmatch(r"\w[\w.-]*", name) for name in pairs):
            raise ValueError("takes NAME=VALUE pairs")
        return pairs

    def _copies(self, word: str, rest: str, line: int) -> Iterator[Copy]:
        words = json.loads(rest) if rest.startswith("[") else shlex.split(self._expanded(rest))
        if words and words[0].startswith("--"):
            raise ValueError(f"{words[0].partition('=')[0]} is not understood; use RUN chown or RUN chmod")
        if len(words) < 2:
            raise ValueError("takes sources and a target")
        *patterns, target = words
        sources = [found for pattern in patterns for found in self._found(pattern)]
        folder = target.endswith("/") or target in (".", "..") or len(sources) > 1
        absolute = posixpath.normpath(posixpath.join(self.workdir or "/", target))
        for source in sources:
            if word == "ADD" and source.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")):
                raise ValueError("unpacking archives is not understood; use COPY and RUN tar")
            place = posixpath.join(absolute, source.name) if folder and source.is_file() else absolute
            yield Copy(source=source, target=place, env=dict(self.env), workdir=self.workdir or "/", line=line)

    def _found(self, pattern: str) -> list[Path]:
        if "://" in pattern or pattern.startswith("<<"):
            raise ValueError(f"{pattern} is not a file of the context; use RUN, or put the file beside the Dockerfile")
        context = self.path.parent
        name = posixpath.normpath(pattern.lstrip("/") or ".")
        if name.startswith(".."):
            raise ValueError(f"{pattern} climbs out of the context {context}; put the file below it")
        found = sorted(glob.glob(name, root_dir=context)) if glob.has_magic(name) else [name]
        paths = [context / each for each in found if os.path.lexists(context / each)]
        if not paths:
            raise ValueError(f"{pattern} is not in the context {context}")
        outside = [each for each in paths if not each.resolve().is_relative_to(context.resolve())]
        if outside:
            raise ValueError(f"{pattern} is a link out of the context {context}; put the file itself there")
        return paths

    def _expanded(self, text: str) -> str:
        known = {**self.arguments, **self.env}

        def value(match: re.Match[str]) -> str:
            if match[0] == "\\$":
                return "$"
            return known.get(match[1] or match[3]) or match[2] or ""

        return _VARIABLE.sub(value, text)


def _argv(rest: str) -> tuple[str, ...]:
    if rest.startswith("--"):
        raise ValueError(f"{rest.split()[0].partition('=')[0]} is not understood; drop it")
    if rest.startswith("<<"):
        raise ValueError("here-documents are not understood; COPY a script and run it")
    if rest.startswith("["):
        try:
            return tuple(map(str, json.loads(rest)))
        except ValueError:
            pass  # a shell's own [ ... ]
    if not rest:
        raise ValueError("takes a command")
    return ("/bin/sh", "-c", rest)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of its first line, instruction): comments out, continued lines joined."""
    held, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip()):
            continue
        first = first if held else number
        line = line.rstrip()
        if line.endswith("\\"):
            held += line[:-1].lstrip() if not held else line[:-1]
            continue
        yield first, (held + line).strip()
        held = ""
    if held.strip():
        yield first, held.strip()

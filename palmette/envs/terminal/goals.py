"""The goals a terminal task is composed of.

A goal brings its own files, says in one sentence what is wanted, knows the commands that reach it with what they
print, and the shell condition that decides. Goals of one task never share a file, so they can be reached in any order.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from palmette.envs.api import Split
from palmette.envs.words import word


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One sentence of a task and everything that belongs to it; `commands` are (command, what it prints)."""

    skill: str
    sentence: str
    files: dict[str, str]
    commands: tuple[tuple[str, str], ...]
    check: str  # a shell condition that holds exactly when the goal is reached


class Names:
    """Draws unused words and file names of one split for one task."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self._split: Split = split
        self._taken: set[str] = set()

    def word(self) -> str:
        """Return a word that this task has not used yet."""
        return word(self.rng, self._split, taken=self._taken)

    def file(self, *endings: str) -> str:
        """Return an unused file name with one of the endings, ``.txt`` by default."""
        return self.word() + self.rng.choice(endings or (".txt",))

    def words(self, count: int) -> list[str]:
        """Return `count` unused words."""
        return [self.word() for _ in range(count)]


def write(n: Names) -> Goal:
    """Write a word to a new file."""
    value, path = n.word(), n.file()
    ask = n.rng.choice((f"Write {value} to {path}.", f"Create {path} containing {value}."))
    return _goal("write", ask, {}, [f"echo {value} > {path}"], _holds(path, value))


def append(n: Names) -> Goal:
    """Append a line to a file."""
    old, value, path = n.word(), n.word(), n.file()
    ask = n.rng.choice((f"Append {value} to {path}.", f"Add the line {value} at the end of {path}."))
    return _goal("append", ask, {path: f"{old}\n"}, [f"echo {value} >> {path}"], _holds(path, f"{old}\n{value}"))


def rename(n: Names) -> Goal:
    """Rename a file."""
    value, old, new = n.word(), n.file(), n.file()
    check = f"[ ! -e {old} ] && {_holds(new, value)}"
    return _goal("rename", f"Rename {old} to {new}.", {old: f"{value}\n"}, [f"mv {old} {new}"], check)


def copy(n: Names) -> Goal:
    """Copy a file."""
    value, old, new = n.word(), n.file(), n.file()
    check = f"{_holds(old, value)} && {_holds(new, value)}"
    return _goal("copy", f"Copy {old} to {new}.", {old: f"{value}\n"}, [f"cp {old} {new}"], check)


def delete(n: Names) -> Goal:
    """Delete one file and leave its neighbour."""
    gone, kept = n.file(".tmp", ".bak"), n.file()
    check = f"[ ! -e {gone} ] && [ -e {kept} ]"
    return _goal("delete", f"Delete {gone}.", {gone: "x\n", kept: "x\n"}, [f"rm {gone}"], check)


def folder(n: Names) -> Goal:
    """Make a directory with a file in it."""
    name, path, value = n.word(), n.file(), n.word()
    ask = f"Make the directory {name} and write {value} to {name}/{path}."
    commands = [f"mkdir {name}", f"echo {value} > {name}/{path}"]
    return _goal("folder", ask, {}, commands, _holds(f"{name}/{path}", value))


def count(n: Names) -> Goal:
    """Count matching lines into a file."""
    key, others, log, out = n.word(), n.words(2), n.file(".log"), n.file()
    lines = [n.rng.choice([key, *others]) for _ in range(n.rng.randint(3, 6))] + [key]
    n.rng.shuffle(lines)
    ask = f"Count the lines with {key} in {log} and save the count to {out}."
    text = "".join(f"{line}\n" for line in lines)
    return _goal("count", ask, {log: text}, [f"grep -c {key} {log} > {out}"], _holds(out, str(lines.count(key))))


def replace(n: Names) -> Goal:
    """Replace a word in a file."""
    old, new, other, path = n.word(), n.word(), n.word(), n.file(".txt", ".cfg")
    text = f"{other} {old}\n"
    check = _holds(path, f"{other} {new}")
    return _goal(
        "replace", f"Replace {old} by {new} in {path}.", {path: text}, [f"sed -i s/{old}/{new}/ {path}"], check
    )


def sort(n: Names) -> Goal:
    """Sort a file into another."""
    items, path, out = n.words(3), n.file(), n.file()
    check = _holds(out, "\n".join(sorted(items)))
    text = "".join(f"{item}\n" for item in items)
    return _goal("sort", f"Sort {path} into {out}.", {path: text}, [f"sort {path} > {out}"], check)


def line(n: Names) -> Goal:
    """Save one line of a file."""
    items, path, out = n.words(4), n.file(), n.file()
    k = n.rng.randint(1, 4)
    text = "".join(f"{item}\n" for item in items)
    command = f"sed -n {k}p {path} > {out}"
    return _goal("line", f"Save line {k} of {path} to {out}.", {path: text}, [command], _holds(out, items[k - 1]))


def executable(n: Names) -> Goal:
    """Make a script executable."""
    path = n.file(".sh")
    return _goal("chmod", f"Make {path} executable.", {path: "echo hi\n"}, [f"chmod +x {path}"], f"[ -x {path} ]")


def follow(n: Names) -> Goal:
    """Read a name from a file and make a file of that name: the answer is only in an observation."""
    path, target, value = n.file(".cfg"), n.file(), n.word()
    ask = f"Read {path}: it names a file. Create that file containing {value}."
    commands = [(f"cat {path}", target), (f"echo {value} > {target}", "")]
    return Goal(
        skill="follow", sentence=ask, files={path: f"{target}\n"}, commands=tuple(commands), check=_holds(target, value)
    )


def find(n: Names) -> Goal:
    """Find the file that holds a word and save its name."""
    key, other, holder, decoy, out = n.word(), n.word(), n.file(".md"), n.file(".md"), n.file()
    ask = f"Find the .md file that contains {key} and write its name to {out}."
    commands = [(f"grep -l {key} *.md", holder), (f"echo {holder} > {out}", "")]
    files = {holder: f"{key}\n", decoy: f"{other}\n"}
    return Goal(skill="find", sentence=ask, files=files, commands=tuple(commands), check=_holds(out, holder))


def lookup(n: Names) -> Goal:
    """Look a key up in a table and save its value."""
    keys, values, path, out = n.words(3), n.words(3), n.file(".csv"), n.file()
    k = n.rng.randrange(3)
    ask = f"Look up {keys[k]} in {path} and write its value to {out}."
    commands = [(f"grep {keys[k]} {path}", f"{keys[k]} {values[k]}"), (f"echo {values[k]} > {out}", "")]
    text = "".join(f"{key} {value}\n" for key, value in zip(keys, values, strict=True))
    return Goal(
        skill="lookup", sentence=ask, files={path: text}, commands=tuple(commands), check=_holds(out, values[k])
    )


GOALS: tuple[Callable[[Names], Goal], ...] = (
    write,
    append,
    rename,
    copy,
    delete,
    folder,
    count,
    replace,
    sort,
    line,
    executable,
    follow,
    find,
    lookup,
)


def _goal(skill: str, sentence: str, files: dict[str, str], commands: list[str], check: str) -> Goal:
    return Goal(skill=skill, sentence=sentence, files=files, commands=tuple((c, "") for c in commands), check=check)


def _holds(path: str, text: str) -> str:
    return f"[ \"$(cat {path} 2>/dev/null)\" = '{text}' ]"

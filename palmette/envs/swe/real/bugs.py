"""Finds bugs for a built project: changes that its tests notice, each with what the tests then say.

A candidate replaces files. The sealed tests that call what it changes run over it; those that see something else are
run once more as they are, and those of them that fail are its fail-to-pass. All others keep what they saw.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from palmette.envs.swe.real.bench import Bench
from palmette.envs.swe.real.built import Built, Sealed, seal_all
from palmette.envs.swe.real.languages import LANGUAGES
from palmette.envs.swe.real.project import Language, Mutation, Result, Run
from palmette.envs.swe.real.reproduce import plain, reproduction
from palmette.sandbox.api import Host

_MOST_KEPT = 300  # tests that must go on passing
_MOST_CALLING = 150  # tests that are run over one change
_OPEN, _UNTOLD = "too little of it is hidden", "nothing can be said about it"
_NOT_PLAIN = "B?"  # how truths and what cannot be compared begin in canonical form
_CPU_S, _CPU_TIMES = 1.0, 3.0  # what a run may take: so much, and so many times what it takes without the change


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What makes a bug of a change: how many tests may fail, how many hidden values differ, whether it can be told."""

    most_failing: int = 60  # a change that breaks more says little about where it is
    least_hidden: int = 2  # so that the one in the issue is not all there is
    told: bool = True
    absent: bool = False  # tests that cannot even be collected with it count as failing


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A change that may be a bug: the files as they then are.

    `tests` are those to be run over it, `callers` all that could notice it; None stands for every test.
    """

    kind: str
    files: Mapping[str, str]
    where: str  # the function it is in, or what else may be said of it inside of task.toml
    tests: frozenset[str] | None = None
    callers: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a test saw: the expression, what it gave with the bug (or the error), what it gives without."""

    test: str
    subject: str
    before: str
    got: str
    want: str
    raises: bool
    truth: bool = False  # it is asked only whether it holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """A change that tests notice: which fail, what those and others see without it, what can be said about it."""

    candidate: Candidate
    fail_to_pass: tuple[str, ...]
    seen: Mapping[str, str]  # test -> digest, of fail-to-pass and of pass-to-pass
    evidence: tuple[Evidence, ...]
    hidden_values: int  # plain values that the bug changes and no test file tells


_TERMS = Terms()
_ABSENT = Result(outcome="error", digest="")  # of a test that is not collected


class Hunt:
    """Tries candidates on one project; use it as a context.

    `sealed` are the project's tests, `rejected` counts why candidates are no bugs.
    """

    def __init__(self, host: Host, built: Built, terms: Terms = _TERMS) -> None:
        self._built, self._terms = built, terms
        self._language: Language = LANGUAGES[built.project.language]
        self.sealed: Sealed = seal_all(self._language, built.files, built.project.tests, built.open_places)
        overlay = {**built.files, **{path: text.encode() for path, text in self.sealed.files.items()}}
        self._blind = Bench(host, self._language, built.project, built.lock, overlay)
        self._open = Bench(host, self._language, built.project, built.lock, built.files)
        self._known: Run | None = None
        self.rejected: Counter[str] = Counter()

    async def __aenter__(self) -> Hunt:
        await self._blind.__aenter__()
        await self._open.__aenter__()
        return self

    async def __aexit__(self, *about: object) -> None:
        await self._blind.__aexit__(None, None, None)
        await self._open.__aexit__(None, None, None)

    async def bugs(self, candidates: Iterable[Candidate]) -> AsyncIterator[Bug]:
        """Yield the candidates that are bugs."""
        for candidate in candidates:
            why, bug = await self._tried(candidate)
            if bug is None:
                self.rejected[why] += 1
            else:
                yield bug

    async def _tried(self, candidate: Candidate) -> tuple[str, Bug | None]:
        baseline = self._built.baseline
        tests = set(baseline if candidate.tests is None else candidate.tests)
        least = self._terms.least_hidden
        right, limit_s = await self._right(tests)
        if why := self._hopeless(right, tests):
            return why, None
        back: dict[str, str | None] = dict.fromkeys(candidate.files)
        await self._blind.put(dict(candidate.files))
        broken = await self._blind.run(files=_files(tests), only=tests, values=True, cpu_s=limit_s)
        await self._blind.put(back)
        if not broken.ended:
            return broken.errors.get("", "does not end"), None
        if len(broken.results) < len(tests) and not self._terms.absent:
            return "breaks the import", None
        wrong = {test: broken.results.get(test, _ABSENT) for test in tests}
        differing = [test for test in sorted(tests) if not _alike(wrong[test], baseline[test])]
        if not differing:
            return "no test notices", None
        if len(differing) > self._terms.most_failing:
            return "breaks too much", None
        if sum(_changed(right[test], wrong[test]) for test in differing if test in right) < least:
            return _OPEN, None
        await self._open.put(dict(candidate.files))
        failed = (await self._open.run(files=_files(differing), only=differing, cpu_s=limit_s)).results
        await self._open.put(back)
        failed = {test: _ABSENT for test in differing if self._terms.absent} | dict(failed)
        failing = tuple(t for t in differing if t in failed and failed[t].outcome in ("failed", "error") and t in right)
        if not failing:
            return "no test fails", None
        if any(right[test].digest != baseline[test].digest for test in failing):
            return "its tests are not stable", None
        hidden = sum(_changed(right[test], wrong[test]) for test in failing)
        if hidden < least:
            return _OPEN, None
        evidence = tuple(
            each
            for test in failing
            for each in self._evidence(test, right[test], wrong[test], failed.get(test, _ABSENT).message)
        )
        if not evidence and self._terms.told:
            return _UNTOLD, None
        kept = self._kept(tests, set(baseline if candidate.callers is None else candidate.callers), differing, failing)
        seen = {test: baseline[test].digest for test in (*failing, *kept)}
        return "", Bug(candidate=candidate, fail_to_pass=failing, seen=seen, evidence=evidence, hidden_values=hidden)

    async def _right(self, tests: Collection[str]) -> tuple[Mapping[str, Result], float | None]:
        """Return what all tests see without a bug, with values, and how long some of them may work with one.

        A change that never ends would else cost the longest time that there is, and machines that are busy are slow.
        """
        if self._known is None:
            self._known = await self._blind.run(only=list(self._built.baseline), values=True)
        known = self._known.results
        each = {test: result.cpu_s for test, result in known.items()}
        around = max(0.0, self._known.cpu_s - sum(each.values()))
        asked = sum(each.get(test, 0.0) for test in tests)
        return known, _CPU_S + _CPU_TIMES * (around + asked) if self._known.cpu_s else None

    def _hopeless(self, right: Mapping[str, Result], tests: Collection[str]) -> str:
        """Return why no change that only these tests notice could be a bug, "" where one could: that needs no run."""
        seen = [right[test] for test in tests if test in right]
        if sum(map(_values, seen)) < self._terms.least_hidden:
            return _OPEN
        if self._terms.told and not any(self._tellable(each, place) for each in seen for place, _, _ in each.seen):
            return _UNTOLD
        return ""

    def _tellable(self, right: Result, place: int) -> bool:
        """Say whether what a test sees at a place can be told to somebody who has not its file."""
        there = self.sealed.places.get(place)
        if there is None or there.before is None:
            return False
        return all(name in right.given and plain(right.given[name]) for name in there.free)

    def _kept(
        self, tests: Collection[str], callers: Collection[str], differing: Collection[str], failing: Collection[str]
    ) -> list[str]:
        """Return what must go on passing: tests that call what is changed first, then others of the same files."""
        files = set(_files(failing))
        near = sorted(set(tests) - set(differing))
        far = [t for t in self._built.baseline if t not in callers and t.partition("::")[0] in files]
        return (near + far)[:_MOST_KEPT]

    def _evidence(self, test: str, right: Result, wrong: Result, message: str) -> Iterator[Evidence]:
        """Yield what a test saw first that was not as it should be, as far as it can be told without its file."""
        for number, (place, text, shown) in enumerate(right.seen):
            if not self._tellable(right, place):
                return
            raises = number >= len(wrong.seen)
            other, said, got = (place, "", _error(message)) if raises else wrong.seen[number]
            if other != place or not got:
                return
            if said != text:
                before, subject = reproduction(self.sealed.places[place], right.given)
                truth = text[:1] == "B"
                yield Evidence(
                    test=test, subject=subject, before=before, got=got, want=shown, raises=raises, truth=truth
                )
                return


def _error(message: str) -> str:
    """Return the first line of what a failure said, "" where it is only an assertion that did not hold."""
    first = message.strip().partition("\n")[0]
    return "" if first.startswith("assert") else first


def by_kind(built: Built, rng: random.Random, *, most_in_function: int = 2) -> Iterator[Candidate]:
    """Yield mutations of all functions that stable tests call, the kinds in turn."""
    language = LANGUAGES[built.project.language]
    calling: dict[str, set[str]] = {}
    for test, result in built.baseline.items():
        for call in result.calls:
            calling.setdefault(call, set()).add(test)
    waiting: dict[str, list[Mutation]] = {}
    for path in sorted(built.files):
        if not of_library(built, path):
            continue
        try:
            found = language.mutations(path, built.files[path].decode(), rng)
        except (SyntaxError, ValueError):
            continue
        for mutation in found:
            if f"{path}:{mutation.line}" in calling:
                waiting.setdefault(mutation.kind, []).append(mutation)
    for group in waiting.values():
        rng.shuffle(group)
    taken: Counter[tuple[str, int]] = Counter()
    while any(waiting.values()):
        for kind in sorted(waiting):
            while waiting[kind]:
                mutation = waiting[kind].pop()
                if taken[mutation.path, mutation.line] < most_in_function:
                    taken[mutation.path, mutation.line] += 1
                    callers = sorted(calling[f"{mutation.path}:{mutation.line}"])
                    tests = sampled(callers, rng)
                    text = mutation.apply(built.files[mutation.path].decode())
                    yield Candidate(
                        kind=kind,
                        files={mutation.path: text},
                        where=mutation.function,
                        tests=frozenset(tests),
                        callers=frozenset(callers),
                    )
                    break


def calling_into(built: Built, path: str, rng: random.Random) -> frozenset[str] | None:
    """Return tests to run over a change of a file, some of many; None, for all, where no test calls into it."""
    callers = [test for test, told in built.baseline.items() if any(c.startswith(f"{path}:") for c in told.calls)]
    return frozenset(sampled(callers, rng)) or None


def sampled(callers: list[str], rng: random.Random) -> list[str]:
    """Return some of many tests, all of few."""
    return rng.sample(callers, min(len(callers), _MOST_CALLING))


def of_library(built: Built, path: str) -> bool:
    """Say whether a path is the library's, not a test's."""
    inside = any(path == source or path.startswith(f"{source}/") for source in built.project.sources)
    return inside and path not in built.project.tests


def _files(tests: Collection[str]) -> list[str]:
    return sorted({test.partition("::")[0] for test in tests})


def _alike(one: Result, other: Result) -> bool:
    return (one.outcome, one.digest) == (other.outcome, other.digest)


def _changed(right: Result, wrong: Result) -> int:
    """Return how many plain values (not only truth) a test sees otherwise with the bug."""
    wrongly = [text for _, text, _ in wrong.seen]
    return sum(
        text[:1] not in _NOT_PLAIN and (number >= len(wrongly) or wrongly[number] != text)
        for number, (_, text, _) in enumerate(right.seen)
    )


def _values(right: Result) -> int:
    """Return how many plain values a test sees."""
    return sum(text[:1] not in _NOT_PLAIN for _, text, _ in right.seen)

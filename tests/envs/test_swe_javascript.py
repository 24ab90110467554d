"""Proves: a JavaScript project becomes tasks whose tests do not know what they expect; no attack scores on them."""

import asyncio
import json
import random
import shutil
from pathlib import Path

import pytest

from palmette.envs.attacks import attacks_on
from palmette.envs.check import check_tasks
from palmette.envs.locked import lock_of
from palmette.envs.swe.real.build import build_project
from palmette.envs.swe.real.built import Built, load, save
from palmette.envs.swe.real.discover_javascript import package_of
from palmette.envs.swe.real.fetch import fetch
from palmette.envs.swe.real.javascript import JavaScript
from palmette.envs.swe.real.make import make_tasks
from palmette.envs.swe.real.syntax import ask
from palmette.errors import UserError
from palmette.sandbox.api import Host
from palmette.sandbox.hosts import open_host

pytestmark = pytest.mark.skipif(not shutil.which("node") or not shutil.which("npm"), reason="Node.js is not installed")

LIBRARY = """\
'use strict'

// Cuts a list into lists of a size; "ä" is here for its bytes.
function chunks (items, size) {
  if (size < 1) throw new RangeError('size must be positive')
  const found = []
  for (let start = 0; start < items.length; start += size) found.push(items.slice(start, start + size))
  return found
}

const initials = (text, limit = 3) => text.split(' ').map((word) => word[0].toUpperCase()).slice(0, limit).join('')

class Counter {
  constructor () { this.seen = {} }

  add (word, times = 1) {
    this.seen[word] = (this.seen[word] ?? 0) + times
    return this.seen[word]
  }
}

module.exports = { chunks, initials, Counter }
"""
TESTS = """\
const { describe, it, test } = require('node:test')
const assert = require('node:assert/strict')
const { chunks, initials, Counter } = require('../lib/words')

describe('chunks', () => {
  it('cuts', () => {
    assert.deepEqual(chunks([1, 2, 3, 4, 5], 2), [
      [1, 2], [3, 4],
      [5]
    ])
    assert.deepEqual(chunks([], 3), [])
    assert.throws(() => { assert.equal(chunks([1], 0), 1) }, RangeError)
  })
  for (const size of [1, 2]) {
    it(`keeps all ${size}`, () => { assert.equal(chunks([7, 8], size).flat().length, 2) })
  }
})

test('initials', async (t) => {
  t.plan(3)
  t.assert.strictEqual(initials('ada lovelace'), 'AL')
  t.assert.equal(initials('a b c d'), 'ABC')
  await t.test('limited', () => { assert.strictEqual(initials('a b c d', 2), 'AB') })
})
"""
MANNER = """\
const assert = require('assert')
const words = require('../lib/words')

describe('Counter', function () {
  this.timeout(1000)
  beforeEach(function () { this.counter = new words.Counter() })
  it('adds', function (done) {
    this.counter.add('x')
    assert.equal(this.counter.add('x', 2), 3)
    setTimeout(done, 1)
  })
  it('starts empty', function () {
    const counter = new words.Counter()
    assert.deepStrictEqual(counter.seen, {})
    assert(counter.add('x') === 1)
  })
  it('is for later')
})
"""
MANIFEST = {"name": "@wordy/words", "version": "1.2.0", "license": "MIT", "devDependencies": {"mocha": "*", "c8": "^1"}}
FILES = {
    "package.json": json.dumps(MANIFEST),
    "lib/words.js": LIBRARY,
    "test/words.test.js": TESTS,
    "test/counter.js": MANNER,
    "test/helper.js": "module.exports = 1\n",
    "eslint.config.js": "module.exports = []\n",
}


@pytest.fixture(scope="module", autouse=True)
def parser() -> None:
    try:
        ask("specifiers", "1")
    except UserError as error:
        pytest.skip(f"the parser cannot be installed: {error}")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("wordyjs")
    for name, text in FILES.items():
        (folder / "words" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "words" / name).write_text(text)

    async def build() -> Built:
        host = open_host("namespace")
        try:
            return await build_project(str(folder / "words"), host)
        finally:
            await host.close()

    return load(save(asyncio.run(build()), folder / "envs"))


async def test_a_package_becomes_tasks_that_hold_against_every_attack(host: Host, built: Built, tmp_path: Path) -> None:
    assert built.project.sources == ("lib/words.js",)
    assert built.label == "wordy-words-1.2.0"
    assert set(built.baseline) == {
        "test/words.test.js::chunks > cuts",
        "test/words.test.js::chunks > keeps all 1",
        "test/words.test.js::chunks > keeps all 2",
        "test/words.test.js::initials > limited",
        "test/counter.js::Counter > adds",
        "test/counter.js::Counter > starts empty",
    }
    cuts = built.baseline["test/words.test.js::chunks > cuts"]
    assert (cuts.values, "lib/words.js:4" in cuts.calls, "lib/words.js:11" in cuts.calls) == (2, True, False)
    made = await make_tasks(built, host, tmp_path / "tasks", count=2, tiers=[4, 5], seed=1)
    assert len(made.tasks) == 2
    assert {report.reason for report in await check_tasks(made.tasks[1:], host, concurrency=2)} == {"ok"}
    (attacked,) = await check_tasks(made.tasks[:1], host, attacks=attacks_on, repeats=2)
    assert attacked.reason == "ok"
    for task in made.tasks:
        assert ("lib/words.js" in task.instruction) == (task.tier == 4)
        lock = lock_of(task.path / "environment")
        assert lock
        assert lock.runtime.startswith("Node.js ")
        hidden = (task.path / "tests/hidden/test/words.test.js").read_text()
        assert "'AL'" not in hidden
        assert "[3, 4]" not in hidden


def test_a_sealed_test_no_longer_knows_what_it_expects_and_keeps_its_lines() -> None:
    text, places = JavaScript().seal(TESTS, 10, open_places={13})
    lines = text.splitlines()
    assert "void __seen__(10, (chunks([1, 2, 3, 4, 5], 2))" in lines[6]
    assert lines[10].strip() == "void __seen__(11, (chunks([], 3)))"
    assert lines[11] == TESTS.splitlines()[11]  # what is to throw goes on doing so
    assert "t.assert.strictEqual(initials('ada lovelace'), 'AL')" in text  # an open place
    assert "t.assert.ok([__seen__(14, (initials('a b c d')))])" in text  # the plan of three still comes out
    assert len(lines) == len(TESTS.splitlines())
    assert places[1].before == "const { chunks, initials, Counter } = require('./lib/words')"
    assert places[2].free == ("size",) or places[2].before is None


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("assert(f(x) === 1)", "void __holds__(0, (f(x) === 1))"),
        ("assert.equal(-1, f(x))", "void __seen__(0, (f(x)))"),
        ("assert.deepEqual(f(x), y)", "assert.deepEqual(__seen__(0, (f(x))), y)"),
        ("assert.deepEqual(f(x), g(y))", "assert.deepEqual(f(x), g(y))"),
        ("assert.match(f(x), /a/)", "void __holds__(0, ((/a/).test(f(x))))"),
        ("expect(f(x)).to.deep.equal({ a: [1] })", "void __seen__(0, (f(x)))"),
        ("expect(f(x)).toBe(undefined)", "void __seen__(0, (f(x)))"),
        ("expect(f(x)).to.not.equal(1)", "expect(f(x)).to.not.equal(1)"),
        ("f(x).should.equal('a')", "void __seen__(0, (f(x)))"),
        ("assert.rejects(async () => assert.equal(f(x), 1))", "assert.rejects(async () => assert.equal(f(x), 1))"),
        ("console.log(f(x), 5)", "console.log(f(x), 5)"),
    ],
)
def test_sealing_knows_many_assertions_and_leaves_alone_what_it_does_not_understand(line: str, becomes: str) -> None:
    assert JavaScript().seal(line, 0, open_places=())[0] == becomes


def test_mutations_are_of_many_kinds_and_change_nothing_else() -> None:
    found = JavaScript().mutations("lib/words.js", LIBRARY, random.Random(1))
    assert {m.kind for m in found} >= {"boundary", "guard", "constant", "default", "slice", "arithmetic", "method"}
    assert {m.kind for m in found} >= {"variable", "return", "exception", "arguments", "boolean"}
    for mutation in found:
        changed, data = mutation.apply(LIBRARY).encode(), LIBRARY.encode()
        assert changed != data
        assert changed[: mutation.start] == data[: mutation.start]
        assert changed[mutation.start + len(mutation.new.encode()) :] == data[mutation.end :]
    (limit,) = [m for m in found if m.kind == "default" and m.new == "4"]
    assert (limit.function, limit.line) == ("initials", 11)
    assert "limit = 4" in limit.apply(LIBRARY)


def test_tests_are_taken_out_by_their_names_and_made_names_go_together() -> None:
    left = JavaScript().without(TESTS, {"chunks > keeps all 2", "initials > limited"})
    assert "it('cuts'" in left
    assert "keeps all" not in left
    assert "limited" not in left
    assert "'AL'" in left
    ask("specifiers", left)


def test_what_is_no_name_of_a_package_is_not_given_to_npm(tmp_path: Path) -> None:
    assert package_of("@a/b/c.js") == "@a/b"
    assert package_of("x/y") == "x"
    assert (package_of("./x"), package_of("node:fs"), package_of("--global")) == ("", "", "")
    for what in ("npm:git+ssh://host/x", "npm:../x", "npm:x@file:y", "npm:--global"):
        with pytest.raises(UserError, match="no name of a package of npm's"):
            fetch(what, tmp_path / "x")
    with pytest.raises(SyntaxError):
        JavaScript().seal("const = 1", 0, open_places=())

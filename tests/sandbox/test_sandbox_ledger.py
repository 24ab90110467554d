"""The books of sandboxes: what is written, what is found by others, and what the reaper does with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palmette.sandbox import ledger
from palmette.sandbox.api import Spec
from palmette.sandbox.conformance import lacks
from palmette.sandbox.hosts import open_host
from palmette.sandbox.ledger import Cost, Ledger, entry, journals, start_time
from palmette.sandbox.reap import reap


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "palmette" / "sandboxes"


async def test_a_sandbox_is_on_the_books_while_it_lives(state: Path):
    host = open_host("namespace")
    began = time.time()
    sandbox = await host.start(Spec(owner="books/test", ttl_s=77))
    (copy,) = await sandbox.fork()
    (journal,) = journals()
    assert (journal.pid, journal.alive, journal.known, journal.heartbeat_s < 20) == (os.getpid(), True, True, True)
    assert journal.server == (host._server.process.pid, start_time(host._server.process.pid))
    assert [e.id for e in journal.entries] == [sandbox.id, copy.id]
    for kept in journal.entries:
        assert (kept.owner, kept.ttl_s, began - 1 < kept.began < time.time() + 1) == ("books/test", 77, True)
        assert start_time(kept.pid) != ""
        assert kept.started == ("" if journal.version else start_time(kept.pid))
    await sandbox.close()
    assert [e.id for journal in journals() for e in journal.entries] == [copy.id]
    await host.close()
    assert os.listdir(state) == []


async def test_what_it_cost():
    host = open_host("namespace")
    sandbox = await host.start(Spec(owner="cost"))
    await sandbox.exec("x=0; while [ $x -lt 100000 ]; do x=$((x + 1)); done; head -c 9000000 /dev/zero > f")
    cost = sandbox.cost()
    assert cost.cpu_s > 0.02, cost
    assert 8.5 < cost.disk_mb < 12, cost
    assert cost.peak_mb > 8.5 or "memory" in lacks(host), cost
    assert 0.02 < cost.wall_s < 60, cost
    await sandbox.close()
    await (await host.start(Spec(owner="cost"))).close()
    total = host._server.ledger.costs["cost"]
    assert (total.cpu_s >= cost.cpu_s, total.disk_mb, total.wall_s > cost.wall_s) == (True, cost.disk_mb, True), total
    await host.close()


def test_costs_add_up():
    one, two = Cost(cpu_s=1, peak_mb=5, disk_mb=1, wall_s=2), Cost(cpu_s=2, peak_mb=3, disk_mb=4, wall_s=2)
    assert one + two == Cost(cpu_s=3, peak_mb=5, disk_mb=4, wall_s=4)


def test_a_journal_stays_small(monkeypatch: pytest.MonkeyPatch, state: Path):
    monkeypatch.setattr(ledger, "_LINES", 50)
    book = Ledger("small")
    book.opened(entry("stays", "o", 1.0))
    for number in range(500):
        book.opened(entry(f"goes/{number}", "o", 1.0))
        book.closed(f"goes/{number}", Cost(cpu_s=1.0))
    (journal,) = journals()
    assert [e.id for e in journal.entries] == ["stays"]
    assert len(journal.path.read_text().splitlines()) < 60
    assert book.costs["o"].cpu_s == 500
    book.close()
    book.close()
    assert list(state.iterdir()) == []


def test_half_a_line_and_strange_files_do_no_harm(state: Path):
    book = Ledger("torn")
    book.opened(entry("one", "o", 1.0))
    with open(state / "torn.journal", "a") as file:
        file.write('{"open": {"id": "tw')
    (state / "strange.journal").write_text("no json\n")
    (state / "empty.journal").write_text("")
    assert [(journal.name, [e.id for e in journal.entries]) for journal in journals()] == [("torn", ["one"])]
    book.close()


def _dead(state: Path, name: str, directory: Path, **changes: object) -> Path:
    """Write the journal of an owner that is dead, with a living process of ours as its sandbox."""
    book = Ledger(name)
    path = state / f"{name}.journal"
    book.opened(entry("it", "o", 1.0, pid=os.getpid(), directory=str(directory)))
    head, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(head), "started": "1", **changes}), *rest, ""]))
    return path


def test_the_living_and_the_unknown_are_not_touched(state: Path, tmp_path: Path):
    for name, changes in (("alive", {"started": start_time(os.getpid())}), ("elsewhere", {"pids": "pid:[1]"})):
        directory = tmp_path / f"palmette-{name}"
        directory.mkdir()
        path = _dead(state, name, directory, **changes)
        assert reap().hosts == 0
        assert (path.exists(), directory.exists()) == (True, True)


def test_after_a_reboot_only_files_are_removed(state: Path, tmp_path: Path):
    directory, other = tmp_path / "palmette-fake-x", tmp_path / "not-ours"
    directory.mkdir()
    other.mkdir()
    paths = [_dead(state, "old", directory, boot="another"), _dead(state, "odd", other, boot="another")]
    reaped = reap()  # the pid in it is that of this very process, which must live on
    assert (reaped.hosts, reaped.processes, reaped.directories, reaped.stuck) == (2, 0, 1, ())
    assert (directory.exists(), other.exists(), [path.exists() for path in paths]) == (False, True, [False, False])


def test_a_process_that_took_over_a_pid_is_not_killed(state: Path, tmp_path: Path):
    path = _dead(state, "reused", tmp_path)
    lines = path.read_text().splitlines()
    record = json.loads(lines[1])
    record["open"]["started"] = "12345"  # the pid is ours, the start time is not
    path.write_text("\n".join([lines[0], json.dumps(record), ""]))
    assert (reap().processes, path.exists()) == (0, False)


@pytest.mark.slow
def test_killed_owners_leave_nothing():
    script = Path(__file__).with_name("kill_owners.py")
    done = subprocess.run([sys.executable, str(script), "--times", "24"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"killed": 24, "left": []}, done.stderr

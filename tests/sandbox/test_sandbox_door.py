"""A terminal in a sandbox that another process owns: what goes through the door, and who does not."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palmette.sandbox.api import Host, SandboxError, SandboxLost, Spec
from palmette.sandbox.door import Neighbour, door_path
from palmette.sandbox.hosts import open_host
from palmette.sandbox.ledger import Ledger, entry, journals
from palmette.sandbox.reap import reap
from palmette.sandbox.stream import resize


@pytest.fixture(params=["fake", "namespace"])
async def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("long" * 40)))  # longer than a socket's address may be
    host = open_host(request.param)
    yield host
    await host.close()
    assert list(journals()) == []


async def _neighbour(host: Host):
    sandbox = await host.start(Spec(owner="door"))
    (journal,) = journals()
    return sandbox, journal, Neighbour(journal, sandbox.id)


async def test_a_command_of_a_visitor(host: Host):
    sandbox, journal, neighbour = await _neighbour(host)
    mode = os.stat(door_path(journal.path)).st_mode
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    await sandbox.write("here", b"in the sandbox")
    visit = await neighbour.open("cat here; tr a-z A-Z; echo oh >&2; exit 7", env={"A": "b"})
    await visit.write(b"x" * 200_000 + b"\n")
    await visit.end_input()
    said: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    async for name, data in visit.output():
        said[name] += data
    assert said == {"stdout": b"in the sandbox" + b"X" * 200_000 + b"\n", "stderr": b"oh\n"}
    assert (await visit.wait()).exit_code == 7


async def test_a_terminal_of_a_visitor(host: Host):
    _, _, neighbour = await _neighbour(host)
    visit = await neighbour.open(["/bin/sh"], env={"PS1": "", "TERM": "dumb"}, terminal=(10, 20))
    output = visit.output()

    async def until(text: bytes) -> None:
        seen = b""
        while text not in seen:
            seen += (await anext(output))[1]

    await visit.write(b"stty size\n")
    await until(b"10 20")
    await visit.resize(33, 44)
    await visit.write(b"stty size\n")
    await until(b"33 44")
    await visit.write(b"sleep 100\n")
    await until(b"sleep 100")
    await asyncio.sleep(0.3)
    await visit.write(b"\x03")  # Ctrl-C ends what runs, not the shell
    await visit.write(b"echo st''ill\n")
    await until(b"still")
    await visit.write(b"exit 5\n")
    assert (await visit.wait()).exit_code == 5


async def test_a_visitor_who_leaves_takes_the_command_along(host: Host):
    sandbox, _, neighbour = await _neighbour(host)
    visit = await neighbour.open("trap '' HUP; echo $$ > pid; echo on; while :; do sleep 0.05; done")
    assert await anext(visit.output()) == ("stdout", b"on\n")
    await visit.close()
    for _ in range(100):
        await asyncio.sleep(0.1)
        if (await sandbox.exec("kill -0 $(cat pid)")).exit_code:
            return
    raise AssertionError("it runs on")


async def test_who_is_not_let_in(host: Host):
    sandbox, journal, neighbour = await _neighbour(host)
    with pytest.raises(SandboxError, match="sandbox no/1 is gone"):
        await Neighbour(journal, "no/1").open("true")
    visit = await neighbour.open("sleep 100")
    await sandbox.close()
    with pytest.raises(SandboxLost):
        await visit.wait()
    await host.close()
    with pytest.raises(SandboxLost, match=rf"process {os.getpid()}, which owns sandbox {sandbox.id}, has no open door"):
        await neighbour.open("true")


def test_the_door_of_a_dead_owner_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    book = Ledger("dead")
    book.opened(entry("it", "o", 1.0))
    head, *rest = book.path.read_text().splitlines()
    book.path.write_text("\n".join([json.dumps({**json.loads(head), "started": "1", "boot": "other"}), *rest, ""]))
    door_path(book.path).touch()
    reap()
    assert os.listdir(book.path.parent) == []


_OWNER = """
import asyncio, sys
from palmette.sandbox.api import Spec
from palmette.sandbox.hosts import open_host
async def main():
    host = open_host("fake")
    sandbox = await host.start(Spec(owner="elsewhere"))
    print(sandbox.id, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await host.close()
asyncio.run(main())
"""


def test_the_command_line_opens_a_terminal_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", _OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdin
        assert owner.stdout
        name = owner.stdout.readline().decode().strip()
        shell = [sys.executable, "-m", "palmette", "sandbox", "shell", name]
        done = subprocess.run([*shell, "sh", "-c", "cat; exit 3"], input=b"piped", capture_output=True, timeout=60)
        assert (done.returncode, done.stdout) == (3, b"piped"), done.stderr
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(shell[0], [*shell, "sh", "-c", "stty size; read line; stty size; echo got $line; exit 4"])
        resize(terminal, 30, 70)
        seen = _until(terminal, b"\n")
        resize(terminal, 31, 71)
        time.sleep(0.5)
        os.write(terminal, b"typed\n")
        seen += _until(terminal, b"got typed")
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
        assert os.waitstatus_to_exitcode(status) == 4, seen
        assert b"31 71" in seen, seen
        owner.stdin.close()
        assert owner.wait(30) == 0


def _until(terminal: int, text: bytes) -> bytes:
    signal.alarm(60)
    seen = b""
    while text not in seen:
        seen += os.read(terminal, 4096)
    signal.alarm(0)
    return seen

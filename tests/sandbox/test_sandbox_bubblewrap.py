"""The fallback by bubblewrap: the conformance suite as far as its `lacks` says, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from palmette.sandbox.api import SandboxError, Spec, StartFailed
from palmette.sandbox.bubblewrap import BubblewrapHost
from palmette.sandbox.conformance import CHECKS, Check, abuse, lacks
from palmette.sandbox.conformance.processes import processes_with, unique_seconds, until
from palmette.sandbox.hosts import open_host

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture
async def host():
    host = open_host("bubblewrap")
    try:
        await (await host.start(Spec())).close()
    except SandboxError as error:
        pytest.skip(f"bubblewrap does not work here: {error}")
    yield host
    await host.close()


# The attempts that are not here hold as well, or need a filter of system calls: docs/sandboxes.md has them all.
_SLOW = ("abuse_races_on_copy_out", "abuse_output_floods", "abuse_setuid", "abuse_time_bombs", "abuse_memory_bomb")
ORDINARY = [check for check in CHECKS if check.name not in _SLOW]


async def test_its_first_process_is_not_ended_from_inside(host: BubblewrapHost):
    attempt = next(each for each in abuse.ATTEMPTS if each.name == "killing_the_agent")
    await attempt.check(host)


@pytest.mark.parametrize("check", ORDINARY, ids=lambda check: check.name)
async def test_conformance(host: BubblewrapHost, check: Check):
    if check.need in lacks(host):
        pytest.skip(f"bubblewrap lacks {check.need}")
    if check.name == "the_first_process_is_out_of_reach":
        pytest.skip("it is a shell that can be looked at: `weaknesses` says so")
    await check.run(host)


async def test_nothing_survives_close(host: BubblewrapHost):
    before = len(os.listdir("/proc/self/fd"))
    mark = unique_seconds()
    sandbox = await host.start(Spec(gateway=("127.0.0.1", 9)))
    await sandbox.exec(f"sleep {mark} & (setsid sleep {mark} &); setsid sh -c 'trap \"\" TERM; sleep {mark}' & true")
    await sandbox.exec("true")
    assert processes_with(mark) >= 3
    await sandbox.close()
    assert processes_with(mark) == 0
    assert len(os.listdir("/proc/self/fd")) == before
    await host.close()
    for directory in host._groups.found.directories:
        assert not list(directory.glob(f"palmette-{os.getpid()}-*"))


_OWNER = """
import asyncio, sys
from palmette.sandbox.api import Spec
from palmette.sandbox.bubblewrap import BubblewrapHost
async def main():
    host = BubblewrapHost()
    box = await host.start(Spec())
    await box.exec(f"(setsid sleep {sys.argv[1]} &); sleep {sys.argv[1]} & true")
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def _owner(mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _OWNER, mark], stdout=subprocess.PIPE)


@pytest.mark.usefixtures("host")
async def test_a_killed_owner_leaves_no_process():
    mark = unique_seconds()
    owner = _owner(mark)
    assert owner.stdout
    assert owner.stdout.readline() == b"ready\n"
    assert processes_with(mark) >= 2
    owner.send_signal(signal.SIGKILL)
    await asyncio.to_thread(owner.wait, 60)
    owner.stdout.close()
    assert await until(lambda: processes_with(mark) == 0)


async def test_what_it_cannot_do_is_said(host: BubblewrapHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(StartFailed, match=r"Spec\.root.*'namespace'"):
        await host.start(Spec(root="/somewhere"))
    assert any("daemon outlives" in weakness for weakness in host.weaknesses())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartFailed, match="apt-get install bubblewrap"):
        await host.start(Spec())


def test_it_stands_in_where_no_c_can_be_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bwrap").symlink_to(shutil.which("bwrap") or "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert open_host("namespace").name == "bubblewrap"
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "install gcc" in warning
    assert "\n" not in warning
    (tmp_path / "bin" / "gcc").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "gcc").chmod(0o755)
    assert open_host("namespace").name == "namespace"

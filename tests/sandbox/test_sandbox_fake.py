"""What is particular to the fake host: its files are directories of this machine, and none may be left."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from palmette.sandbox.api import Spec
from palmette.sandbox.fake import FakeHost


@pytest.mark.parametrize("after", [0, 1, 3, 8])
async def test_a_cancelled_fork_leaves_no_directory(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    host = FakeHost()
    sandbox = await host.start(Spec())
    for number in range(50):
        await sandbox.write(f"d{number}/f", b"x" * 10_000)
    snapshot = await sandbox.snapshot()
    (base,) = [tmp_path / name for name in os.listdir(tmp_path) if name.startswith("palmette-fake-")]
    before = set(os.listdir(base))
    assert len(before) == 2
    for action in (snapshot.fork(4), sandbox.snapshot(), sandbox.fork(2)):
        task = asyncio.ensure_future(action)
        for _ in range(after):
            await asyncio.sleep(0.002)
        task.cancel()
        made = (await asyncio.gather(task, return_exceptions=True))[0]
        if not isinstance(made, BaseException):  # it was faster
            await asyncio.gather(*(each.close() for each in (made if isinstance(made, list) else [made])))
        assert set(os.listdir(base)) == before
    await snapshot.close()
    await host.close()
    assert not base.exists()

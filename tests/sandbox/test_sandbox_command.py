"""``palmette sandbox``: shells with and without a terminal, and images from the command line."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palmette.cli import main
from palmette.envs.build import build_tasks
from palmette.sandbox.images import Images

PALMETTE = [sys.executable, "-m", "palmette", "sandbox"]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["sandbox", *arguments]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    return printed.err.removeprefix("error: ").strip()


def test_images_from_the_command_line(images: Images, small_root: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["sandbox", "images", "build", str(small_root), "--name", "small"]) == 0
    assert "small: directory" in capsys.readouterr().out
    assert main(["sandbox", "images", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["names"], row["parent"], row["own_bytes"] > 1e6) == (["small"], "", True)
    assert main(["sandbox", "images", "list"]) == 0
    assert "1 images" in capsys.readouterr().out
    assert "did you mean 'small'" in fails(capsys, "images", "rm", "smal")
    assert main(["sandbox", "images", "rm", "small"]) == 0
    assert images.all() == []


def test_images_of_tasks(images: Images, small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["sandbox", "images", "build", str(small_root), "--name", "small"])
    tasks = tmp_path / "tasks"
    build_tasks("terminal", tasks, count=2, tiers=[1], split="train", seed=1)
    assert main(["sandbox", "images", "build", str(tasks)]) == 0
    assert "2 tasks, 0 images" in capsys.readouterr().out
    (next(tasks.iterdir()) / "environment" / "Dockerfile").write_text("FROM missing\nRUN true\n")
    capsys.readouterr()
    assert main(["sandbox", "images", "build", str(tasks)]) == 2
    assert "FROM missing: no image of that name" in capsys.readouterr().err
    assert "need no --name" in fails(capsys, "images", "build", str(tasks), "--name", "x")


def test_mistakes_are_one_line(images: Images, capsys: pytest.CaptureFixture[str]):
    assert "no image 'nix'" in fails(capsys, "shell", "nix")
    assert "unknown sandbox host 'namespaces'; did you mean" in fails(capsys, "shell", "--sandbox", "namespaces")
    assert "no such file" in fails(capsys, "images", "build", "nowhere")


def test_a_shell_reads_commands(images: Images, small_root: Path):
    done = subprocess.run(
        [*PALMETTE, "shell", str(small_root)], input=b"cat /etc/base; pwd; exit 7\n", capture_output=True
    )
    assert (done.returncode, done.stdout) == (7, b"of the base\n/app\n"), done.stderr
    done = subprocess.run([*PALMETTE, "shell", "host", "--", "ls", "-d", "/app"], input=b"", capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"/app\n"), done.stderr


def test_a_shell_at_a_terminal(images: Images):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*PALMETTE, "shell"])
    try:
        seen = _until(terminal, b"$ ")
        os.write(terminal, b"test -t 0 && echo a terminal $((6 * 7)); hostname\n")
        seen += _until(terminal, b"\nsandbox\r\n")
        assert b"a terminal 42" in seen
        if b"$ " not in seen.rpartition(b"\nsandbox\r\n")[2]:  # what was read may go further
            _until(terminal, b"$ ")
        os.write(terminal, b"echo $((6 * 8)) reads; cat; echo interrupted\n")
        _until(terminal, b"48 reads\r\n")
        os.write(terminal, b"meow\n")
        _until(terminal, b"meow\r\nmeow\r\n")  # the terminal and cat: it has begun, and the shell awaits it
        os.write(terminal, b"\x03")  # cat and the shell hear it, not we
        _until(terminal, b"$ ")
        os.write(terminal, b"exit 5\n")
        _until(terminal, None)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    finally:
        os.close(terminal)


_OWNER = """
import asyncio, sys
from palmette.sandbox.api import Spec
from palmette.sandbox.hosts import open_host
async def main():
    host = open_host("fake" if sys.argv[1] == "fake" else "namespace")
    box = await host.start(Spec(owner="demo/rl", ttl_s=600))
    process = asyncio.ensure_future(box.exec("while :; do :; done & sleep 60"))
    await asyncio.sleep(0.5)
    print(box.id, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_the_books_are_shown_and_orphans_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert main(["sandbox", "ls"]) == 0
    assert "0 sandboxes" in capsys.readouterr().out
    owners = [
        subprocess.Popen([sys.executable, "-c", _OWNER, kind], stdout=subprocess.PIPE, text=True)
        for kind in ("namespace", "fake")
    ]
    ids = [owner.stdout.readline().strip() for owner in owners if owner.stdout]
    try:
        rows = {row["id"]: row for row in _rows(capsys)}
        assert set(rows) == set(ids)
        for name, owner in zip(ids, owners, strict=True):
            row = rows[name]
            assert (row["owner"], row["host_pid"], row["state"]) == ("demo/rl", owner.pid, "live")
            assert 590 < row["ttl_left_s"] <= 600
        if rows[ids[0]]["memory_mb"] is not None:  # there are cgroups here
            assert rows[ids[0]]["cpu_s"] > 0.1
            assert rows[ids[0]]["processes"] >= 3
        assert main(["sandbox", "top"]) == 0
        assert "demo/rl" in capsys.readouterr().out
        assert main(["sandbox", "gc"]) == 0
        assert "0 dead hosts" in capsys.readouterr().out
    finally:
        for owner in owners:
            owner.kill()
            owner.wait()
            if owner.stdout:
                owner.stdout.close()
    assert main(["sandbox", "gc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stuck"] == []
    assert _rows(capsys) == []
    assert "ordered by memory" in fails(capsys, "top", "--by", "name")


def _rows(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    assert main(["sandbox", "ls", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def _until(fd: int, text: bytes | None) -> bytes:
    """Read to `text`, or to the end."""
    seen, deadline = b"", time.monotonic() + 60
    while (text is None or text not in seen) and time.monotonic() < deadline:
        if select.select([fd], [], [], 1.0)[0]:
            try:
                seen += os.read(fd, 4096)
            except OSError:  # the other end is closed
                break
    assert text is None or text in seen, seen
    return seen

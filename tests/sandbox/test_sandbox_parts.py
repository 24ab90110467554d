"""Small parts of the sandboxes as properties: path words, bounded output, names of hosts, cgroup detection."""

from __future__ import annotations

import asyncio
import os
import posixpath
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.errors import UserError
from palmette.sandbox import cgroup, ledger, seccomp
from palmette.sandbox.api import Limits, PathRefused, Spec, StartFailed
from palmette.sandbox.capture import Capture
from palmette.sandbox.descriptors import readable
from palmette.sandbox.files import Files
from palmette.sandbox.hosts import open_host, probe

_WORDS = st.lists(st.sampled_from(["..", ".", "", "a", "b", "link", "up", "abs"]), min_size=1, max_size=8).map("/".join)


@given(chunks=st.lists(st.binary(max_size=40), max_size=12), limit=st.integers(1, 60))
def test_capture_keeps_head_and_tail(chunks: list[bytes], limit: int):
    capture = Capture(limit)
    for chunk in chunks:
        capture.feed(chunk)
    whole = b"".join(chunks)
    if len(whole) <= limit:
        assert (capture.value(), capture.cut) == (whole, 0)
    else:
        head, tail = whole[: (limit + 1) // 2], whole[len(whole) - limit // 2 :]
        assert capture.cut == len(whole) - limit
        assert capture.value() == head + b"\n[... %d bytes cut ...]\n" % capture.cut + tail


async def test_the_agent_cuts_output_as_capture_does():
    host = open_host("namespace")
    for limit in (1, 2, 7, 4096, 100_001):
        sandbox = await host.start(Spec(limits=Limits(output_bytes=limit)))
        for size in (0, 1, 2, 6, 7, 8, 4097, 5000, 100_001, 200_500):
            data = os.urandom(size)
            capture = Capture(limit)
            capture.feed(data)
            result = await sandbox.exec("head -c 3000; sleep 0.002; cat", stdin=data)
            assert (result.stdout, result.truncated) == (capture.value(), capture.cut > 0), (limit, size)
        await sandbox.close()
    await host.close()


@settings(max_examples=150, deadline=None)
@given(path=_WORDS, data=st.binary(min_size=1, max_size=8))
def test_no_path_reaches_outside(tmp_path_factory: pytest.TempPathFactory, path: str, data: bytes):
    outside = tmp_path_factory.mktemp("outside")
    root = outside / "root"
    (root / "w" / "a").mkdir(parents=True)
    (outside / "a").write_bytes(b"secret")
    (outside / "b").write_bytes(b"secret")
    os.symlink("../" * 30 + str(outside), root / "w" / "up")
    os.symlink(outside, root / "w" / "abs")
    os.symlink("a", root / "w" / "link")
    before = set(outside.iterdir())
    files = Files(os.open(root, os.O_PATH), workdir="/w", owner=None, limit_bytes=1 << 20)
    try:
        with suppress(PathRefused):
            assert files.read(path) != b"secret"
        with suppress(PathRefused):
            files.write(path, data, 0o644)
            assert files.read(path) == data
    finally:
        files.close()
    assert set(outside.iterdir()) == before
    assert (outside / "a").read_bytes() == (outside / "b").read_bytes() == b"secret"


@given(path=_WORDS)
def test_climbing_words_are_refused(tmp_path_factory: pytest.TempPathFactory, path: str):
    depth, lowest = 1, 1  # the work directory is one below the root
    for word in path.split("/") if not path.startswith("/") else []:
        depth += -1 if word == ".." else 0 if word in ("", ".") else 1
        lowest = min(lowest, depth)
    files = Files(os.open("/", os.O_PATH), workdir="/w", owner=None, limit_bytes=1)
    try:
        if lowest < 0:
            with pytest.raises(PathRefused, match="climbs"):
                files._inside(path)
        elif not path.startswith("/"):
            assert "/" + files._inside(path) == posixpath.normpath("/w/" + path) or files._inside(path) == "."
    finally:
        files.close()


def test_an_unknown_host_is_a_user_error():
    with pytest.raises(UserError, match="did you mean 'namespace'"):
        open_host("namespaces")


def test_the_probe_covers_what_the_doctor_needs():
    rows = probe()
    parts = {"C compiler", "user", "seccomp", "cgroups", "overlayfs", "namespace sandbox"}
    assert parts | {"user namespaces", "landlock", "devpts", "idmapped mounts"} == {row[0] for row in rows}
    assert all(isinstance(ok, bool) and detail for _, ok, detail in rows)
    assert rows[-1][:2] == ("namespace sandbox", True), rows


def test_workers_are_not_stuck_on_a_healthy_machine():
    assert 0 <= seccomp.stuck_workers() < 100


def test_own_name_tells_a_living_owner():
    pid, start = cgroup.own_name().removeprefix("palmette-").split("-")[:2]
    assert int(pid) == os.getpid()
    assert ledger.start_time(os.getpid()) == start != ""
    assert ledger.start_time(4_194_301) == ""


async def test_no_cancellation_is_lost_when_what_was_waited_for_comes_at_once():
    going = [True]

    async def wait_for_ever(fd: int) -> None:
        while going:
            assert await readable(fd, timeout_s=5.0)

    for turns in range(5):  # of the loop between what comes and the cancellation
        there, come = os.pipe()
        waiting = asyncio.ensure_future(wait_for_ever(there))
        await asyncio.sleep(0.01)
        os.write(come, b"x")
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        done, _ = await asyncio.wait([waiting], timeout=1.0)
        going.clear()
        assert done, "it goes on"
        going.append(True)
        os.close(there), os.close(come)


_BAD = (
    (Spec(limits=Limits(memory_mb=0)), "Limits.memory_mb must be positive, not 0"),
    (Spec(limits=Limits(disk_mb=-1)), "Limits.disk_mb must be positive, not -1"),
    (Spec(limits=Limits(inodes=1 << 40)), "Limits.inodes must be at most 2147483647, not 1099511627776"),
    (Spec(ttl_s=0), "Spec.ttl_s must be positive, not 0"),
    (Spec(workdir="../x"), "Spec.workdir: '../x' must be an absolute, normalised path below /"),
    (Spec(workdir="/a/../../b"), "Spec.workdir: '/a/../../b' must be an absolute, normalised path below /"),
    (Spec(readonly=("usr",)), "Spec.readonly: 'usr' must be an absolute, normalised path below /"),
    (Spec(root="/"), "Spec.root: '/' must be an absolute, normalised path below /"),
    (Spec(gateway=("127.0.0.1", 0)), "Spec.gateway: a port is between 1 and 65535, not 0"),
    (Spec(env={"A=": "b"}), "Spec.env: 'A=' and its value cannot be a variable"),
    (Spec(env={"A": "b\0"}), "Spec.env: 'A' and its value cannot be a variable"),
)


@pytest.mark.parametrize(("spec", "said"), _BAD, ids=[said.split(" ")[0] for _, said in _BAD])
@pytest.mark.parametrize("name", ["namespace", "bubblewrap", "docker", "e2b", "fake"])
async def test_what_makes_no_sense_is_one_line_on_every_host(name: str, spec: Spec, said: str):
    with pytest.raises(ValueError) as error:
        await open_host(name).start(spec)
    assert str(error.value) == said


async def test_what_is_not_there_is_named():
    host = open_host("namespace")
    for spec, said in (
        (Spec(root="/nowhere/x"), "Spec.root: /nowhere/x: No such file or directory"),
        (Spec(root="/etc/passwd"), "Spec.root: /etc/passwd: Not a directory"),
        (Spec(readonly=("/nowhere",)), "Spec.readonly: /nowhere: No such file or directory"),
    ):
        with pytest.raises(StartFailed) as error:
            await host.start(spec)
        assert str(error.value) == said
    await host.close()

"""Files in and out: round trips, and paths that must lead nowhere else."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Awaitable
from contextlib import suppress

from palmette.sandbox.api import Host, Limits, PathRefused, Spec
from palmette.sandbox.conformance.box import box, raised

_CLIMBING = ("../../etc/hostname", "/../etc/hostname", "a/../../../etc/hostname", "../../../../../../etc/hostname")


async def check_write_and_read(host: Host) -> None:
    data = os.urandom(200_000)
    async with box(host) as sandbox:
        await sandbox.write("blob", data)
        await sandbox.write("/logs/verifier/reward.txt", b"1\n")
        assert await sandbox.read("blob") == await sandbox.read("/app/blob") == data
        assert await sandbox.read("/logs/verifier/reward.txt") == b"1\n"
        await sandbox.write("blob", b"short")
        assert await sandbox.read("blob") == b"short"
        await sandbox.write("empty", b"")
        assert await sandbox.read("empty") == b""


async def check_write_makes_parents_and_sets_the_mode(host: Host) -> None:
    async with box(host) as sandbox:
        await sandbox.write("bin/deep/run.sh", b"#!/bin/sh\necho ran\n", 0o755)
        assert (await sandbox.exec(["bin/deep/run.sh"])).stdout == b"ran\n"
        await sandbox.write("bin/deep/run.sh", b"#!/bin/sh\necho again\n", 0o600)
        assert (await sandbox.exec("stat -c %a bin/deep/run.sh bin")).stdout == b"600\n755\n"


async def check_files_belong_to_the_commands(host: Host) -> None:
    async with box(host) as sandbox:
        await sandbox.write("new/file", b"a")
        await sandbox.upload(_tar({"sub/other": b"b"}), "new")
        result = await sandbox.exec("echo b >> new/file && mv new/file moved && rm -r new && cat moved")
        assert result.stdout == b"ab\n", result
        await sandbox.exec("mkdir -p made && echo hi > made/x")
        assert await sandbox.read("made/x") == b"hi\n"


async def check_what_is_no_file_is_refused(host: Host) -> None:
    async with box(host) as sandbox:
        await sandbox.exec("mkfifo fifo; mkdir dir; ln -s nowhere dangling; ln -s loop loop")
        for path in ("missing", "dir", "fifo", "dangling", "loop", "missing/below", "bad\0name", "x" * 5000):
            await _refused(sandbox.read(path), path)
        for path in ("dir", "fifo", "loop"):
            await _refused(sandbox.write(path, b"x"), path)
        await _refused(sandbox.download("missing"), "download")
        await _refused(sandbox.download("fifo"), "download")


async def check_climbing_paths_are_refused(host: Host) -> None:
    async with box(host) as sandbox:
        for path in _CLIMBING:
            await _refused(sandbox.read(path), path)
            await _refused(sandbox.write(path, b"x"), path)
            await _refused(sandbox.download(path), path)
            await _refused(sandbox.upload(_tar({"x": b"x"}), path), path)


async def check_symlinks_do_not_lead_out(host: Host) -> None:
    with tempfile.TemporaryDirectory() as outside:
        secret = os.path.join(outside, "secret")
        _save(secret, b"secret")
        async with box(host) as sandbox:
            up = "../" * 40
            await sandbox.exec(f"ln -s {secret} file; ln -s {outside} dir; ln -s {up}{secret} climb; ln -s / root")
            for path in ("file", "dir/secret", "climb", f"root{secret}"):
                await _refused(sandbox.read(path), path)
            for path in ("file", "dir/secret", "dir/new", "climb"):
                await _ends(sandbox.write(path, b"changed"))
            await _ends(sandbox.upload(_tar({"secret": b"changed", "new": b"x"}), "dir"))
            await _ends(sandbox.upload(_tar({"dir/secret": b"changed"}), "."))
            for path in ("dir", "."):
                with suppress(PathRefused):
                    assert b"secret" not in _contents(await sandbox.download(path)).values()
        assert (_load(secret), os.listdir(outside)) == (b"secret", ["secret"])


async def check_symlinks_inside_work(host: Host) -> None:
    async with box(host) as sandbox:
        await sandbox.exec("mkdir d; echo x > d/f; ln -s d/f near; ln -s d through")
        assert await sandbox.read("near") == b"x\n"
        await sandbox.write("through/g", b"y")
        assert await sandbox.read("d/g") == b"y"


async def check_bad_archives_are_refused(host: Host) -> None:
    async with box(host) as sandbox:
        for name in ("../outside", "/absolute", "a/../../b"):
            await _refused(sandbox.upload(_tar({name: b"x"})), name)
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            await _refused(sandbox.upload(_special(kind)), "a device")
        await _refused(sandbox.upload(b"this is not a tar archive" * 100), "no archive")
        assert (await sandbox.exec("ls -A")).stdout == b""


async def check_a_tree_makes_the_round_trip(host: Host) -> None:
    async with box(host) as sandbox:
        await sandbox.exec(
            "mkdir -p tree/empty tree/'with space'; cd tree; echo a > 'with space/ä é'; printf '\\001\\377' > bin;"
            "printf x > \"$(printf 'not\\377utf8')\"; echo run > run; chmod 750 run; ln -s ../run empty.link;"
            "ln bin hard; mkfifo fifo"
        )
        packed = await sandbox.download("tree")
        names = _contents(packed)
        assert names == {
            "bin": b"\x01\xff",
            "empty": None,
            "empty.link": "../run",
            "hard": b"\x01\xff",
            "not\udcffutf8": b"x",
            "run": b"run\n",
            "with space": None,
            "with space/ä é": b"a\n",
        }, names
        await sandbox.upload(packed, "copy")
        assert await sandbox.download("copy") == packed
        assert (await sandbox.exec("stat -c %a copy/run; readlink copy/empty.link")).stdout == b"750\n../run\n"


async def check_downloads_are_deterministic(host: Host) -> None:
    async with box(host) as one, box(host) as two:
        for sandbox, order in ((one, "b a c"), (two, "c b a")):
            await sandbox.exec(f"for f in {order}; do echo $f > $f; sleep 0.01; done; mkdir d; touch -d 2001-01-01 a d")
        first, second = await one.download(), await two.download()
        assert first == second
        with tarfile.open(fileobj=io.BytesIO(first)) as tar:
            members = tar.getmembers()
        assert [m.name for m in members] == ["a", "b", "c", "d"]
        assert all((m.mtime, m.uid, m.gid, m.uname, m.gname) == (0, 0, 0, "", "") for m in members)


async def check_one_file_downloads(host: Host) -> None:
    async with box(host) as sandbox:
        await sandbox.write("d/one", b"1")
        assert _contents(await sandbox.download("d/one")) == {"one": b"1"}


async def check_an_upload_replaces(host: Host) -> None:
    async with box(host) as sandbox:
        await sandbox.exec("mkdir d; echo old > d/f; echo keep > d/k; ln -s d/k link")
        await sandbox.upload(_tar({"d/f": b"new", "link": b"no longer a link"}))
        assert await sandbox.read("d/f") == b"new"
        assert await sandbox.read("d/k") == b"keep\n"
        assert await sandbox.read("link") == b"no longer a link"


async def check_thousands_of_files(host: Host) -> None:
    files = {f"d{n % 37}/f{n}": b"%d" % n for n in range(2000)}
    async with box(host) as sandbox:
        await sandbox.upload(_tar(files), "many")
        assert (await sandbox.exec("find many -type f | wc -l")).stdout.strip() == b"2000"
        back = {name: data for name, data in _contents(await sandbox.download("many")).items() if data is not None}
        assert back == files


async def check_deep_paths(host: Host) -> None:
    path = "/".join(["d"] * 200) + "/f"
    async with box(host) as sandbox:
        await sandbox.write(path, b"deep")
        assert await sandbox.read(path) == b"deep"
        assert _contents(await sandbox.download())[path] == b"deep"


async def check_a_download_is_bounded(host: Host) -> None:
    async with box(host, Spec(limits=Limits(disk_mb=8))) as sandbox:
        await sandbox.exec("truncate -s 1T sparse; for i in 1 2 3; do truncate -s 4M part$i; done")
        await _refused(sandbox.read("sparse"), "sparse")
        await _refused(sandbox.download("sparse"), "sparse")
        await sandbox.exec("rm sparse")
        await _refused(sandbox.download(), "three times 4 MB of 8")


async def _refused(action: Awaitable[object], what: str) -> None:
    await raised(action, PathRefused, what)


async def _ends(action: Awaitable[object]) -> None:
    """Let it succeed or be refused: what counts is where it did not go."""
    with suppress(PathRefused):
        await action


def _save(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _load(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _special(kind: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("special")
        info.type = kind
        tar.addfile(info)
    return out.getvalue()


def _contents(archive: bytes) -> dict[str, bytes | str | None]:
    """Name to content: bytes of a file, target of a link, None for a directory."""
    found: dict[str, bytes | str | None] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            source = tar.extractfile(member) if member.isfile() else None
            found[member.name] = source.read() if source else member.linkname if member.issym() else None
    return found


CHECKS = {
    "": (
        check_write_and_read,
        check_write_makes_parents_and_sets_the_mode,
        check_files_belong_to_the_commands,
        check_what_is_no_file_is_refused,
        check_climbing_paths_are_refused,
        check_symlinks_do_not_lead_out,
        check_symlinks_inside_work,
        check_bad_archives_are_refused,
        check_a_tree_makes_the_round_trip,
        check_downloads_are_deterministic,
        check_one_file_downloads,
        check_an_upload_replaces,
        check_thousands_of_files,
        check_deep_paths,
        check_a_download_is_bounded,
    ),
}

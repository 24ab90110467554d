"""Images: what they are made from, that nothing changes them afterwards, and what goes when the budget is passed."""

from __future__ import annotations

import asyncio
import os
import tarfile
import threading
from pathlib import Path

import pytest

from palmette.envs.check import check_tasks
from palmette.envs.prepare import spec_for, spec_when_made
from palmette.envs.task import load_task
from palmette.errors import UserError
from palmette.sandbox import enter_image, seccomp
from palmette.sandbox.api import Limits, Spec, StartFailed
from palmette.sandbox.builder import Builder, Ended
from palmette.sandbox.conformance.processes import processes_with, unique_seconds, until
from palmette.sandbox.dockerfile import read_dockerfile
from palmette.sandbox.fake import FakeHost
from palmette.sandbox.hosts import open_host
from palmette.sandbox.image_build import from_dockerfile, image_below, make_image
from palmette.sandbox.images import Config, Image, Images, copy_tree

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def base(images: Images, small_root: Path) -> Image:
    image = make_image(images, str(small_root))
    images.name(image, "small")
    return image


def build(images: Images, context: Path, text: str) -> Image:
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(text)
    return from_dockerfile(images, read_dockerfile(context / "Dockerfile"))


def test_the_same_directory_is_the_same_image(images: Images, base: Image, small_root: Path):
    assert make_image(images, str(small_root)).id == base.id
    assert images.find("small") is not None
    assert images.find("small:latest") is not None
    assert (base.root / "etc" / "base").read_text() == "of the base\n"
    assert images.names(base) == ["small"]


@as_root
def test_a_tar_without_its_devices(images: Images, small_root: Path, tmp_path: Path):
    os.mknod(tmp_path / "disk", 0o60666, os.makedev(7, 0))
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(small_root, arcname=".")
        tar.add(tmp_path / "disk", arcname="./opt/disk")
        tar.add(tmp_path / "disk", arcname="./dev/disk")
    image = make_image(images, str(tmp_path / "root.tar"))
    assert (image.root / "bin" / "sh").exists()
    assert not os.path.lexists(image.root / "opt" / "disk")
    assert list((image.root / "dev").iterdir()) == []


def test_sources_that_are_none(images: Images, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no tar")
    with tarfile.open(tmp_path / "saved.tar", "w") as tar:
        tar.add(tmp_path / "text", arcname="manifest.json")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tmp_path / "text", arcname="text")
    for source, said in (
        ("missing", "no such file.*debootstrap:bookworm"),
        ("empty", "no /bin/sh and no Dockerfile"),
        ("text", "not a tar"),
        ("saved.tar", "layers; make a flat one: docker export"),
        ("other.tar", "no /bin/sh"),
    ):
        with pytest.raises(UserError, match=said):
            make_image(images, str(tmp_path / source))
    assert images.all() == []
    assert [path.name for path in images.directory.glob(".*")] == []


@as_root
def test_commands_run_once_and_beginnings_are_shared(images: Images, base: Image, tmp_path: Path):
    uuid = "RUN cat /proc/sys/kernel/random/uuid > /id\n"
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("one")
    text = f"FROM small\nENV A=1\n{uuid}COPY file /app/\nRUN cat /app/file > /copy\n"
    one = build(images, tmp_path / "x", text)
    again = build(images, tmp_path / "x", text)
    assert again.id == one.id
    (tmp_path / "x" / "file").write_text("two")
    two = build(images, tmp_path / "x", text)
    assert two.id != one.id
    assert (two.root / "id").read_text() == (one.root / "id").read_text()  # not run again
    assert [(i.root / "copy").read_text() for i in (one, two)] == ["one", "two"]
    assert (one.env, one.parent) == ({"A": "1"}, two.parent)
    assert build(images, tmp_path / "y", f"FROM small\nENV A=2\n{uuid}").root != one.root
    other = build(images, tmp_path / "z", f"FROM small\nENV A=2\n{uuid}")
    assert (other.root / "id").read_text() != (one.root / "id").read_text()


@as_root
def test_an_image_shares_what_it_leaves_alone_and_changes_nothing_below(images: Images, base: Image, tmp_path: Path):
    commands = (
        "echo more >> /etc/base; chmod 700 /usr/bin/wc; rm /usr/bin/tail; echo new > /opt/new; cat /etc/base > /b"
    )
    image = build(images, tmp_path / "x", f"FROM small\nRUN {commands}\n")
    same = [(each.root / "usr/bin/grep").stat().st_ino for each in (base, image)]
    assert same[0] == same[1]
    assert image.own_bytes < base.own_bytes / 10
    assert (base.root / "etc/base").read_text() == "of the base\n"
    assert (image.root / "etc/base").read_text() == "of the base\nmore\n"
    assert [(each.root / "usr/bin/wc").stat().st_mode & 0o777 for each in (base, image)] == [0o755, 0o700]
    assert [(each.root / "usr/bin/tail").exists() for each in (base, image)] == [True, False]


_ATTEMPTS = """
ls /root /home /work /run/docker.sock 2>/dev/null && echo sees the host
ls /proc | grep -c '^[0-9]'
echo x 2>/dev/null > /proc/sys/kernel/hostname && echo writes sysctl
echo x 2>/dev/null > /proc/sysrq-trigger && echo reboots
mount -t tmpfs x /opt 2>/dev/null && echo mounts
mknod /opt/disk b 7 0 2>/dev/null && echo makes devices
grep -E '^(CapEff|CapInh|CapBnd|NoNewPrivs|Seccomp)' /proc/self/status | tr '\\t' ' '
cut -d: -f1 /proc/net/dev | tail -n +3
id -u
"""


@as_root
def test_walls_while_building(images: Images, base: Image, tmp_path: Path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "attempts.sh").write_text(_ATTEMPTS)
    image = build(images, tmp_path / "x", "FROM small\nCOPY attempts.sh /\nRUN sh /attempts.sh > /found\n")
    found = (image.root / "found").read_text().split("\n")
    processes = int(found.pop(0))
    assert processes <= 6
    caps = f"{0x800004FB:016x}"
    filtered = ["Seccomp: 2", "Seccomp_filters: 1"] if seccomp.usable() else ["Seccomp: 0", "Seccomp_filters: 0"]
    assert [line.strip() for line in found if line] == [
        f"CapInh: {0:016x}", f"CapEff: {caps}", f"CapBnd: {caps}", "NoNewPrivs: 1", *filtered, "lo", "0",
    ]  # fmt: skip


@as_root
def test_a_failing_command_is_named_and_leaves_nothing(images: Images, base: Image, tmp_path: Path):
    with pytest.raises(UserError, match=r"Dockerfile:3: RUN failed with exit 3.*--network.*said: out err") as caught:
        build(images, tmp_path / "x", "FROM small\nENV A=1\nRUN echo out; echo err >&2; exit 3\n")
    assert "\n" not in str(caught.value)
    assert [image.id for image in images.all()] == [base.id]
    assert list(images.directory.glob(".*")) == []


def test_bases_that_cannot_be(images: Images, tmp_path: Path):
    for text, said in (
        ("FROM python:3\nRUN true\n", "FROM python:3: no image of that name.*images build SOURCE --name python:3"),
        ("FROM host\nRUN true\n", "FROM host cannot be changed by RUN; name an image"),
        ("FROM scratch\nRUN true\n", "FROM scratch cannot be changed by RUN"),
        ("FROM scratch\n", "nothing to make"),
    ):
        with pytest.raises(UserError, match=said):
            build(images, tmp_path / "x", text)


@as_root
def test_a_link_in_a_base_leads_nowhere_else(images: Images, small_root: Path, tmp_path: Path):
    base = make_image(images, str(small_root))
    images.name(base, "small")
    target = tmp_path / "outside"
    target.mkdir()
    text = f"FROM small\nRUN ln -s {target} /out && ln -s {tmp_path}/file /opt/file\n"
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "secret").write_text("secret")
    image = build(images, tmp_path / "x", text + "COPY secret /opt/file\nRUN true\n")
    assert not (tmp_path / "file").exists()
    assert (image.root / str(tmp_path).lstrip("/") / "file").exists() or (image.root / "opt/file").is_file()
    with pytest.raises(UserError, match=r"COPY /out/secret"):
        build(images, tmp_path / "x", text + "COPY secret /out/\nRUN true\n")
    assert list(target.iterdir()) == []


def test_builders_at_the_same_time_make_it_once(images: Images):
    made: list[int] = []

    def fill(root: Path) -> Config:
        made.append(1)
        (root / "file").write_bytes(bytes(100_000))
        return Config(source="test")

    stores = [Images(images.directory) for _ in range(6)]
    found: list[Image] = []
    threads = [threading.Thread(target=lambda s=s: found.append(s.add("abc123", None, fill))) for s in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert (len(made), {image.id for image in found}) == (1, {"abc123"})


def _sized(images: Images, key: str, kib: int, parent: Image | None = None) -> Image:
    def fill(root: Path) -> Config:
        (root / key).write_bytes(os.urandom(kib << 10))
        return Config(source=key)

    return images.add(key, parent, fill)


def test_the_longest_unused_goes_first(images: Images):
    for age, key in ((300, "aa"), (100, "bb"), (200, "cc")):
        image = _sized(images, key, 100)
        os.utime(image.root.parent / "image.json", (1e9 - age, 1e9 - age))
    images.close()
    budget = Images(images.directory, budget_bytes=250 << 10)
    assert [image.id for image in budget.shrink()] == ["aa"]
    budget.find("cc")
    budget.close()
    budget = Images(images.directory, budget_bytes=150 << 10)
    assert [image.id for image in budget.shrink()] == ["bb"]
    assert [image.id for image in budget.all()] == ["cc"]


def test_what_is_used_or_built_upon_stays(images: Images):
    parent = _sized(images, "aa", 100)
    child = _sized(images, "bb", 100, parent)
    images.name(child, "child")
    assert child.own_bytes == pytest.approx(100 << 10, rel=0.1)
    other = Images(images.directory, budget_bytes=0)
    assert other.shrink() == []  # `images` holds both
    with pytest.raises(UserError, match="in use"):
        other.remove("bb")
    images.close()
    with pytest.raises(UserError, match="what bb was made from"):
        other.remove("aa")
    assert [image.id for image in other.shrink()] == ["bb", "aa"]
    assert other.find("child") is None
    with pytest.raises(UserError, match="no image 'child'"):
        other.remove("child")


def test_names_that_cannot_be(images: Images, base: Image):
    for name in ("host", "scratch", "", "../x", "/x", "-x"):
        with pytest.raises(UserError, match="cannot be called"):
            images.name(base, name)
    images.name(base, "registry.example/team/x:1")
    assert images.find("registry.example/team/x:1") is not None
    assert images.find("../images") is None


async def test_a_sandbox_of_an_image(images: Images, base: Image, tmp_path: Path):
    host = open_host("namespace")
    try:
        one, two = [await host.start(Spec(root=str(base.root))) for _ in range(2)]
        assert (await one.exec("cat /etc/base; id -un; pwd")).stdout == b"of the base\nagent\n/app\n"
        result = await one.exec("echo x > /app/mine && cat /app/mine; echo y > /tmp/t; ls /usr/lib/python3 /etc/ssl")
        assert (result.stdout, result.exit_code) == (b"x\n", 2)
        assert (await one.exec("rm /usr/bin/wc")).exit_code != 0 or os.geteuid() != 0
        await one.write("/etc/base", b"changed from outside")
        assert await one.read("/etc/base") == b"changed from outside"
        assert await two.read("/etc/base") == b"of the base\n"
        assert (base.root / "etc/base").read_text() == "of the base\n"
        assert (await two.exec(["python3", "-V"])).exit_code == 127
    finally:
        await host.close()


@as_root
async def test_the_work_directory_of_an_image_belongs_to_the_agent(images: Images, base: Image, tmp_path: Path):
    image = build(
        images, tmp_path / "x", "FROM small\nWORKDIR /srv/app\nRUN mkdir d && echo old > d/f && ln -s d/f l\n"
    )
    host = open_host("namespace")
    try:
        sandbox = await host.start(Spec(root=str(image.root), workdir="/srv/app"))
        result = await sandbox.exec("echo new >> d/f && cat l && stat -c %U . d d/f l && rm -r d && ls")
        assert result.stdout == b"old\nnew\nagent\nagent\nagent\nagent\nl\n", result
        assert (image.root / "srv/app/d/f").read_text() == "old\n"
        assert (image.root / "srv/app/d/f").stat().st_uid == 0
    finally:
        await host.close()


async def test_roots_that_cannot_be(tmp_path: Path, small_root: Path):
    host = open_host("namespace")
    try:
        with pytest.raises(StartFailed, match=r"Spec\.root: .*/missing: No such file"):
            await host.start(Spec(root=str(tmp_path / "missing")))
        for root in ("relative", "/a/../b"):
            with pytest.raises(ValueError, match="must be an absolute"):
                await host.start(Spec(root=root))
        evil = tmp_path / "evil"
        evil.mkdir()
        copy_tree(small_root, evil)
        (evil / "logs").symlink_to("/m")  # where the fork server keeps what it shows
        with pytest.raises(StartFailed, match="/logs"):
            await host.start(Spec(root=str(evil)))
    finally:
        await host.close()


def _task(directory: Path, dockerfile: str) -> Path:
    for name, text in {
        "task.toml": '[task]\nname = "test/image"\n[verifier]\nenvironment_mode = "separate"\n',
        "instruction.md": "Write the word of /opt/word to answer.\n",
        "environment/Dockerfile": dockerfile,
        "environment/word.txt": "palm",
        "tests/test.sh": 'test ! -e built && test "$(cat answer)" = "$(cat /opt/word)-$KIND"; '
        "echo $((!$?)) > /logs/verifier/reward.txt\n",
        "solution/solve.sh": 'rm built; echo "$(cat /opt/word)-$KIND" > answer\n',
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


@as_root
async def test_a_task_with_commands_runs_in_its_image(images: Images, base: Image, tmp_path: Path):
    text = "FROM small\nENV KIND=x\nWORKDIR /srv\nRUN echo built > built\nCOPY word.txt /opt/word\n"
    task = load_task(_task(tmp_path / "task", text))
    assert task.workdir == "/srv"
    spec = spec_for(task, owner="test")
    assert (spec.readonly, spec.env["KIND"]) == ((), "x")
    host = open_host("namespace")
    try:
        reports = await check_tasks([task], host, concurrency=1)
        assert [(report.ok, report.reason) for report in reports] == [(True, "ok")]
    finally:
        await host.close()


async def test_a_task_outside_the_subset_is_refused_by_name(images: Images, tmp_path: Path):
    task = load_task(_task(tmp_path / "task", "FROM x\nWORKDIR /srv\nUSER me\n"))
    with pytest.raises(UserError, match=r"Dockerfile:3: USER: is outside the subset"):
        spec_for(task, owner="test")
    task = load_task(_task(tmp_path / "other", "FROM ubuntu:24.04\nRUN apt-get install x\n"))
    with pytest.raises(UserError, match=r"FROM ubuntu:24.04: no image of that name here; make one"):
        spec_for(task, owner="test")
    plain = load_task(_task(tmp_path / "plain", "FROM ubuntu:24.04\nCOPY word.txt /opt/word\n"))
    assert spec_for(plain, owner="test").root == ""  # nothing is run: the machine's own system will do
    assert image_below(images, read_dockerfile(tmp_path / "plain/environment/Dockerfile")) is None


async def test_a_host_without_images_says_so():
    host = FakeHost()
    with pytest.raises(StartFailed, match=r"Spec\.root.*namespace"):
        await host.start(Spec(root="/somewhere"))
    await host.close()


@as_root
def test_a_command_that_takes_too_much_ends_alone(small_root: Path):
    def run(builder: Builder, script: str) -> Ended:
        return builder.run(small_root, "/", ["/bin/sh", "-c", script], {"PATH": "/usr/bin"}, network=False)

    with Builder(Limits(memory_mb=32, pids=16, output_bytes=1000), timeout_s=20) as builder:
        if builder.memory:
            bomb = run(builder, "x=$(head -c 99000000 /dev/zero | tr '\\0' x)")
            assert (bomb.exit_code, bomb.limit) == (137, "32 MB of memory"), bomb
        flood = run(builder, "head -c 5000000 /dev/zero; echo the end; exit 3")
        assert (flood.exit_code, flood.limit, flood.output[-8:]) == (3, "", b"the end\n")
        assert len(flood.output) < 1100
        forks = run(builder, "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 5 & done; echo no")
        assert b"ork" in forks.output or not builder.memory, forks
    mark, before = unique_seconds(), _own_cgroups()
    with Builder(timeout_s=0.5) as builder:
        late = run(builder, f"echo begun; sleep {mark} & sleep {mark}")
        assert (late.exit_code, late.output, late.limit) == (137, b"begun\n", "0.5 s")
    assert asyncio.run(until(lambda: processes_with(mark) == 0))
    assert _own_cgroups() == before


def _own_cgroups() -> set[Path]:
    return set(Path("/sys/fs/cgroup").rglob(f"palmette-{os.getpid()}-*"))


def test_a_builder_names_what_it_could_not_do(tmp_path: Path):
    with Builder() as builder:
        ended = builder.run(tmp_path / "missing", "/", ["/bin/sh"], {}, network=False)
    assert (ended.exit_code, b"mounting" in ended.output) == (enter_image.NOT_ENTERED, True), ended


def test_a_builder_without_namespaces_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(Builder, "_filter", lambda self: bytes(16))  # no program of a filter
    with Builder() as builder, pytest.raises(UserError, match="cannot be put up here: the filter"):
        builder.run(tmp_path, "/", ["/bin/sh"], {}, network=False)


@as_root
async def test_an_image_is_made_once_while_the_rest_goes_on(images: Images, base: Image, tmp_path: Path):
    text = "FROM small\nRUN sleep 0.4; cat /proc/sys/kernel/random/uuid > /id\n"
    task = load_task(_task(tmp_path / "slow", text))
    asked = [asyncio.ensure_future(spec_when_made(task, owner="test")) for _ in range(12)]
    ticks = 0
    asked[3].cancel()
    while not all(each.done() for each in asked):
        await asyncio.sleep(0.01)
        ticks += 1
    roots = {each.result().root for each in asked if not each.cancelled()}
    assert (len(roots), len(images.all()), asked[3].cancelled()) == (1, 2, True)
    assert ticks > 5, "nothing else could run meanwhile"
    other = load_task(_task(tmp_path / "failing", "FROM small\nRUN exit 3\n"))
    for _ in range(2):
        with pytest.raises(UserError, match="exit 3"):
            await spec_when_made(other, owner="test")

"""The namespace host itself: what it leaves behind, what it says when it cannot, what it does on lesser machines."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from palmette.sandbox import build, cgroup, namespace, seccomp
from palmette.sandbox.api import Limits, SandboxLost, Spec, StartFailed, Status
from palmette.sandbox.conformance import lacks
from palmette.sandbox.conformance.box import PYTHON, READONLY
from palmette.sandbox.conformance.processes import processes_with, unique_seconds, until
from palmette.sandbox.hosts import open_host
from palmette.sandbox.profile import Profile

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
async def host():
    host = open_host("namespace")
    yield host
    await host.close()


def _descriptors_and_mounts() -> tuple[int, str]:
    return len(os.listdir("/proc/self/fd")), Path("/proc/self/mountinfo").read_text()


def _cgroups_of(pid: int) -> list[Path]:
    found = []
    for directory in cgroup.detect().directories:
        found += directory.glob(f"palmette-{pid}-*")
    return [path for path in found if not path.name.endswith("probe")]


async def test_closing_the_host_leaves_nothing(host):
    before = _descriptors_and_mounts()
    mark = unique_seconds()
    sandboxes = await asyncio.gather(*(host.start(Spec(gateway=("127.0.0.1", 9))) for _ in range(12)))
    await asyncio.gather(*(s.exec(f"(setsid sleep {mark} &); sleep {mark} & true") for s in sandboxes))
    running = [asyncio.ensure_future(s.exec("sleep 60")) for s in sandboxes[:3]]
    assert processes_with(mark) >= 24
    await host.close()
    assert processes_with(mark) == 0
    assert _cgroups_of(os.getpid()) == []
    assert _descriptors_and_mounts() == before
    assert all(isinstance(r, SandboxLost) for r in await asyncio.gather(*running, return_exceptions=True))
    with pytest.raises(SandboxLost):
        await sandboxes[5].exec("true")
    with pytest.raises(StartFailed):
        await host.start(Spec())
    await host.close()


_OWNER = """
import asyncio, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born with it ignored
from palmette.sandbox.api import Spec
from palmette.sandbox.conformance import lacks
from palmette.sandbox.conformance.box import PYTHON, READONLY
from palmette.sandbox.hosts import open_host
async def main():
    host = open_host("namespace")
    boxes = [await host.start(Spec()) for _ in range(4)]
    for box in boxes:
        await box.exec(f"(setsid sleep {sys.argv[1]} &); sleep {sys.argv[1]} & true")
    print("ready", host._server.process.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def _owner(mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _OWNER, mark], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_a_killed_owner_leaves_nothing(ending):
    mark = unique_seconds()
    owner = _owner(mark)
    assert owner.stdout
    server = int(owner.stdout.readline().split()[1])
    assert processes_with(mark) >= 8
    owner.send_signal(ending)
    await asyncio.to_thread(owner.wait, 60)
    owner.stdout.close()
    assert await until(lambda: processes_with(mark) == 0)
    assert await until(lambda: _cgroups_of(owner.pid) == [])
    assert await until(lambda: not Path(f"/proc/{server}").exists())


@as_root
async def test_cgroups_of_killed_servers_are_removed(host):
    directories = cgroup.detect().directories
    if not directories:
        pytest.skip("no cgroups here")
    stale = [directory / "palmette-4194300-1-1" for directory in directories]
    for path in stale:
        (path / "7").mkdir(parents=True)
    await (await host.start(Spec())).close()
    assert not any(path.exists() for path in stale)


async def test_a_dead_fork_server_is_told(host):
    sandbox = await host.start(Spec())
    host._server.process.kill()
    host._server.process.wait()
    with pytest.raises(SandboxLost):
        await sandbox.exec("sleep 5")
    with pytest.raises(StartFailed, match="fork server died"):
        await host.start(Spec())


async def test_many_lives_leak_nothing(host):
    await (await host.start(Spec())).close()
    before = len(os.listdir("/proc/self/fd")), len(host._server._uids)
    for _ in range(10):
        boxes = await asyncio.gather(*(host.start(Spec(gateway=("127.0.0.1", 9))) for _ in range(12)))
        await asyncio.gather(*(box.exec("echo $$") for box in boxes))
        await asyncio.gather(*(box.close() for box in boxes))
    assert (len(os.listdir("/proc/self/fd")), len(host._server._uids)) == before
    assert seccomp.stuck_workers() < 50
    left: list[Path] = []
    for _ in range(100):
        left = [path for base in _cgroups_of(os.getpid()) for path in base.glob("*/")]
        if not left:
            break
        await asyncio.sleep(0.02)
    assert left == []


_TALK = """
import socket
listener = socket.create_server(("127.0.0.1", 3000), reuse_port=False)
client = socket.create_connection(("127.0.0.1", 3000))
server = listener.accept()[0]
client.close(), server.close()  # the client's end waits for a minute
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\\0mine")
print(len(open("/proc/net/tcp").readlines()) - 1)
"""


async def test_a_used_network_namespace_is_clean(host):
    spec = Spec(gateway=("127.0.0.1", 9), readonly=READONLY)
    program = [PYTHON, "-I", "-c", _TALK]
    for _ in range(6):
        one = await host.start(spec)
        assert (await one.exec(program)).stdout.strip().isdigit()
        second = await one.exec(program)  # what it left waits in its own namespace
        assert b"Address already in use" in second.stderr or second.exit_code == 0
        await one.close()
        two = await host.start(spec)
        seen = await two.exec("tail -n +2 /proc/net/tcp | wc -l; grep -c mine /proc/net/unix")
        assert seen.stdout == b"1\n0\n", seen  # the gateway's listener only
        await two.close()
    plain = [await host.start(Spec()) for _ in range(3)]
    await asyncio.gather(*(each.close() for each in plain))
    assert len(os.listdir(f"/proc/{host._server.process.pid}/fd")) < 40


def _held(pid: int | str) -> list[str]:
    """Return what the descriptors of a process are, but for a fork server's stock of network namespaces."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            links.append(re.sub(r"(?<=:\[)\d+", "", os.readlink(entry)))
    return sorted(link for link in links if not link.startswith("net:"))


async def test_forks_leak_nothing(host):
    async def family() -> None:
        root = await host.start(Spec())
        await root.exec("head -c 3000000 /dev/zero > big")
        every = [root, *await root.fork(3)]
        await every[2].exec("echo x > f")
        every += await every[2].fork(2)
        snapshot = await every[4].snapshot()
        every += await snapshot.fork()
        await every.pop(2).close()
        await asyncio.gather(snapshot.close(), *(each.close() for each in every))

    await family()
    server = host._server
    await asyncio.sleep(0.1)  # the server reaps what has ended, and opens files for a moment to see what it left
    before = _held("self"), _held(server.process.pid)
    for _ in range(5):
        await family()
    assert len(server.layers) == 0
    assert (len(server._uids), server._holders) == (8192, {}) or os.geteuid() != 0
    for _ in range(100):
        if (_held("self"), _held(server.process.pid)) == before:
            break
        await asyncio.sleep(0.02)
    assert (_held("self"), _held(server.process.pid)) == before


async def test_the_original_of_a_fork_is_used_or_closed_at_once(host):
    one = await host.start(Spec())
    for turn in range(12):
        await one.write("turn", b"%d" % turn)
        (two,) = await one.fork()
        script = "cat turn; echo more >> turn; cat turn"
        seen = await asyncio.gather(*(each.exec(script) for each in (one, two)))
        assert [result.stdout for result in seen] == [b"%d%dmore\n" % (turn, turn)] * 2
        old, one = one, (await one.fork())[0] if turn % 3 == 0 else two
        await old.close()  # its new layer may be on its way
    await one.write("last", b"")
    await one.fork()
    await host.close()
    assert len(host._sandboxes) == 0


async def test_a_fork_of_an_image_sees_the_image(host, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (tmp_path / "etc" / "motd").write_text("hello\n")
    tmp_path.chmod(0o755)
    for tool in ("usr", "bin", "lib", "lib64"):
        (tmp_path / tool).mkdir()
    shown = tuple(filter(os.path.isdir, ("/usr", "/bin", "/lib", "/lib64")))
    one = await host.start(Spec(root=str(tmp_path), readonly=shown))
    assert (await one.exec("cat /etc/motd; echo x > f")).stdout == b"hello\n"
    (two,) = await one.fork()
    await two.exec("echo y >> f; touch g")
    (three,) = await two.fork()
    found = [(await each.exec("cat /etc/motd f; ls; id -un; echo z > /dev/null")).stdout for each in (one, two, three)]
    assert found == [b"hello\nx\nf\nagent\n", *[b"hello\nx\ny\nf\ng\nagent\n"] * 2]
    assert sorted(path.name for path in (tmp_path / "etc").iterdir()) == ["motd", "passwd"]


async def test_the_server_ends_with_a_paused_sandbox(host):
    if "pause" in lacks(host):
        pytest.skip("no freezer here")
    mark = unique_seconds()
    sandbox = await host.start(Spec())
    await sandbox.exec(f"sleep {mark} &")
    await sandbox.pause()
    host._server._socket.close()  # as when this process is killed
    await asyncio.to_thread(host._server.process.wait, 20)
    assert processes_with(mark) == 0
    assert _cgroups_of(os.getpid()) == []


async def test_a_cancelled_start_leaves_nothing(host):
    await (await host.start(Spec())).close()
    before = len(os.listdir("/proc/self/fd"))
    starts = [asyncio.ensure_future(host.start(Spec())) for _ in range(20)]
    for delay_s in (0, 0.001, 0.002, 0.004):
        await asyncio.sleep(delay_s)
        for start in starts[:: 3 if delay_s else 5]:
            start.cancel()
    done = await asyncio.gather(*starts, return_exceptions=True)
    assert any(isinstance(d, asyncio.CancelledError) for d in done)
    await asyncio.gather(*(d.close() for d in done if isinstance(d, namespace.NamespaceSandbox)))
    assert host._sandboxes == {}
    assert len(os.listdir("/proc/self/fd")) == before


async def test_an_interpreter_below_a_private_directory():
    if sys.base_prefix.startswith("/usr"):
        pytest.skip("the interpreter is part of the system here")
    host = open_host("namespace")
    sandbox = await host.start(Spec(readonly=(sys.base_prefix, sys.prefix)))
    result = await sandbox.exec([sys.executable, "-c", "import pytest, sys; print(sys.prefix)"], timeout_s=60)
    assert result.stdout.decode() == f"{sys.prefix}\n", result
    await host.close()


async def test_a_replaced_readonly_directory_is_seen_anew(host, tmp_path):
    shared = tmp_path / "shared"
    for content in ("first", "second"):
        shutil.rmtree(shared, ignore_errors=True)
        shared.mkdir()
        (shared / "f").write_text(content)
        sandbox = await host.start(Spec(readonly=(str(shared),)))
        assert (await sandbox.exec(["cat", f"{shared}/f"])).stdout.decode() == content
        await sandbox.close()


async def test_more_readonly_directories_than_the_server_keeps(host, tmp_path):
    paths = [tmp_path / f"d{n}" for n in range(90)]
    for path in paths:
        path.mkdir()
        (path / "name").write_text(path.name)
    for first in (0, 30, 60, 0):
        shown = paths[first : first + 30]
        sandbox = await host.start(Spec(readonly=tuple(map(str, shown))))
        result = await sandbox.exec(["cat", *(f"{path}/name" for path in shown)])
        assert result.stdout.decode() == "".join(path.name for path in shown), result
        await sandbox.close()


async def test_without_a_compiler_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    host = open_host("namespace")
    with pytest.raises(StartFailed, match=r"gcc \(cc\).*'fake'"):
        await host.start(Spec())
    await host.close()


async def test_a_failing_compiler_is_quoted(monkeypatch, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'x.c:1: error: no such thing' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(StartFailed, match="no such thing"):
        build.fork_server()
    assert [p.name for p in (tmp_path / "cache" / "palmette").iterdir()] == []


def test_the_fork_server_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = build.fork_server()
    stamp = first.stat().st_mtime_ns
    assert build.fork_server() == first
    assert first.stat().st_mtime_ns == stamp
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_the_sources_compile_without_a_warning(tmp_path):
    command = [build.compiler() or "cc", *build.FLAGS, "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "x")]
    library = ["-shared", "-fPIC", build.SOURCES / "preload" / "sh.c", build.SOURCES / "packet.c"]
    for sources in (build.SOURCES.glob("*.c"), library):
        done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


async def test_without_cgroups_memory_is_limited_per_process(monkeypatch):
    monkeypatch.setattr(cgroup, "detect", lambda: cgroup.Cgroups(version=0, reason="none here"))
    host = open_host("namespace")
    sandbox = await host.start(Spec(limits=Limits(memory_mb=100)))
    result = await sandbox.exec("x=$(head -c 300000000 /dev/zero | tr '\\0' x); echo survived")
    assert (b"survived" in result.stdout, result.status is Status.OOM) == (False, False), result.status
    assert any("none here" in weakness for weakness in host.weaknesses())
    assert "memory" in lacks(host)
    await host.close()


async def test_on_a_stuck_kernel_the_filter_is_left_out(monkeypatch):
    monkeypatch.setattr(seccomp, "usable", lambda: False)
    host = open_host("namespace")
    sandbox = await host.start(Spec())
    result = await sandbox.exec("grep -E '^Seccomp:' /proc/self/status")
    assert result.stdout.split() == [b"Seccomp:", b"0"]
    assert any("seccomp" in weakness for weakness in host.weaknesses())
    assert "filter" in lacks(host)
    await host.close()


async def test_hosts_share_no_uid(host):
    other = open_host("namespace")
    one, two = await host.start(Spec()), await other.start(Spec())
    assert (await one.exec("id -u")).stdout != (await two.exec("id -u")).stdout or os.geteuid() != 0
    await other.close()
    assert (await one.exec("echo alive")).stdout == b"alive\n"


@pytest.mark.parametrize("profile", ["root", "root-inside"])
def test_a_profile_that_cannot_be_had_is_refused(profile, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(StartFailed, match=rf"'{profile}' needs root.*'namespace:rootless'"):
        open_host(f"namespace:{profile}").weaknesses()


_PACKAGES = """
chown -R daemon /opt && stat -c %U /opt && echo changed >> /etc/base && chmod 4755 /usr/bin/true && rm /usr/bin/env
stat -c %u:%g / /etc /usr/bin/sh /etc/base | sort -u; cat /etc/base
"""


def _state(root: Path) -> dict[Path, tuple[int, ...]]:
    found = {path: path.lstat() for path in root.rglob("*")}
    return {path: (s.st_mode, s.st_uid, s.st_gid, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in found.items()}


def _uid_of(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("Uid:")[2].split()[0])


@as_root
async def test_root_inside_owns_its_image_and_nothing_else(small_root):
    before = _state(small_root)
    host = namespace.NamespaceHost(profile=Profile.ROOT_INSIDE)
    try:
        one = await host.start(Spec(root=str(small_root)))
    except StartFailed as error:
        pytest.skip(str(error))
    result = await one.exec(_PACKAGES)
    assert result.stdout == b"daemon\n0:0\nof the base\nchanged\n", result
    await one.write("/etc/by-the-host", b"x")
    (two,) = await one.fork()
    result = await two.exec("stat -c %U:%u /opt /etc/by-the-host /; cat /etc/base; env; echo $USER; rm -r /opt")
    assert result.stdout == b"daemon:1\nroot:0\nroot:0\nof the base\nchanged\nroot\n", result
    assert (await one.exec("stat -c %U /opt")).stdout == b"daemon\n"
    plain = await host.start(Spec(readonly=READONLY))
    listen = "import socket; print(socket.create_server(('127.0.0.1', 80)).getsockname()[1])"
    assert (await plain.exec([PYTHON, "-I", "-c", listen])).stdout == b"80\n"
    assert one._agent
    assert _uid_of(one._agent.box.pid) >= 200_000, "as the machine sees its root"
    await host.close()
    assert _state(small_root) == before


@as_root
async def test_root_inside_refuses_an_image_it_cannot_own():
    host = open_host("namespace:root-inside")
    with pytest.raises(StartFailed, match=r"idmapped.*'namespace:root'"):
        await host.start(Spec(root="/proc/sys"))  # of a file system that has no idmapped mounts
    await host.close()


_ROOTLESS = """
import asyncio, os, sys, traceback
from palmette.sandbox import agent, build, cgroup, conformance, files, namespace, relay, seccomp
import concurrent.futures.thread, encodings.idna, pwd, tarfile, tempfile, urllib.parse
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
os.environ["XDG_CACHE_HOME"] = sys.argv[1]
import ctypes; ctypes.CDLL(None).prctl(4, 1)  # dumpable again after setuid: /proc/self must be ours
async def main():
    host = namespace.NamespaceHost()
    print("weak", *host.weaknesses(), sep="|")
    for check in conformance.CHECKS:
        if check.need not in host.lacks | {"", "streams", "bounds"} and not check.name.startswith("abuse_"):
            try:
                await check.run(host)
                print("ok", check.name)
            except namespace.StartFailed as error:
                print("cannot", error)
                break
            except Exception:
                print("failed", check.name)
                traceback.print_exc()
    await host.close()
asyncio.run(main())
"""


@as_root
@pytest.mark.slow
def test_without_root_it_is_weaker_and_says_so():
    with tempfile.TemporaryDirectory() as cache:
        os.chmod(cache, 0o777)
        command = [sys.executable, "-c", _ROOTLESS, cache]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd="/")
    if re.search(r"^cannot ", done.stdout, re.M):
        pytest.skip(f"no rootless sandboxes here: {done.stdout}")
    assert "rootless" in done.stdout.splitlines()[0], done.stdout + done.stderr
    assert re.findall(r"^failed (.*)", done.stdout, re.M) == [], done.stderr
    assert done.stdout.count("ok ") > 25, done.stdout + done.stderr


async def test_without_a_cpu_controller_a_share_of_it_is_refused(monkeypatch):
    found = cgroup.detect()
    less = cgroup.Cgroups(version=found.version and 1, directories=found.directories[:2], reason="none here")
    monkeypatch.setattr(cgroup, "detect", lambda: less)
    host = open_host("namespace")
    with pytest.raises(StartFailed, match=r"Limits\.cpus: no cpu controller"):
        await host.start(Spec(limits=Limits(cpus=0.5)))
    assert "cpu" in lacks(host)
    assert any("cpu controller" in weakness for weakness in host.weaknesses())
    await host.close()


async def test_a_command_that_is_killed_takes_along_what_it_started(host):
    sandbox = await host.start(Spec())
    await sandbox.exec("sleep 600 &")
    result = await sandbox.exec("sleep 700 & sh -c 'sleep 800 & sleep 900' & kill -9 $$")
    assert result.exit_code == 137
    left = await sandbox.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert b"sleep 600" in left.stdout, "what was there before stays"
    assert not re.search(rb"sleep [789]00", left.stdout), left

"""Walls and limits: what a sandbox must not see, reach or use up."""

from __future__ import annotations

import asyncio
import os
import pwd
import tempfile

from palmette.sandbox.api import Host, Limits, PathRefused, Spec, StartFailed, Status
from palmette.sandbox.conformance.box import PYTHON, READONLY, box, python, raised


async def check_the_shared_directories_are_there(host: Host) -> None:
    async with box(host) as sandbox:
        for path in ("/app", "/tmp", "/var/tmp", "/tests", "/logs", "/logs/verifier", "/solution", "/dev/shm"):
            result = await sandbox.exec(f"echo x > {path}/f && cat {path}/f")
            assert result.stdout == b"x\n", (path, result)
        for device in ("null", "zero", "full", "random", "urandom"):
            assert (await sandbox.exec(f"head -c 1 /dev/{device}; echo x > /dev/null")).exit_code == 0, device


async def check_the_host_is_out_of_sight(host: Host) -> None:
    with tempfile.TemporaryDirectory() as outside:
        os.chmod(outside, 0o755)
        home = str(pwd.getpwuid(os.getuid()).pw_dir)
        async with box(host) as sandbox:
            for path in (outside, home, "/etc/shadow", "/etc/ssh", "/home", "/run", "/sys", "/boot"):
                assert (await sandbox.exec(["ls", path])).exit_code != 0, path
                await raised(sandbox.download(path), PathRefused, path)


async def check_the_system_cannot_be_changed(host: Host) -> None:
    async with box(host) as sandbox:
        for path in ("/usr/x", "/usr/bin/x", "/bin/x", "/lib/x", "/proc/x", "/etc/alternatives/x"):
            assert (await sandbox.exec(f"echo x > {path}")).exit_code != 0, path
        for path in ("/usr/x", "/bin/x", "/proc/sys/kernel/hostname", "/dev/null"):
            await raised(sandbox.write(path, b"x"), PathRefused, path)


async def check_the_kernel_is_not_read_for_it(host: Host) -> None:
    async with box(host) as sandbox:
        for path in ("/proc/kcore", "/proc/1/environ", "/proc/kallsyms", "/proc/self/maps", "/proc/meminfo"):
            await raised(sandbox.read(path), PathRefused, path)


async def check_the_user_is_nobody_special(host: Host) -> None:
    async with box(host) as sandbox:
        result = await sandbox.exec("id -u; id -un; grep -E '^(Cap...|NoNewPrivs|Groups):' /proc/self/status")
        uid, name, *lines = result.stdout.decode().splitlines()
        assert (int(uid) > 0, name) == (True, "agent"), result
        fields = dict(line.split(":\t", 1) for line in lines)
        assert all(int(fields[f"Cap{name}"], 16) == 0 for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")), fields
        assert fields["NoNewPrivs"] == "1", fields


async def check_privileged_calls_fail(host: Host) -> None:
    program = """
import ctypes, errno, os
status = open("/proc/self/status").read()
assert not int(status.partition("CapEff:")[2].split()[0], 16), "it has capabilities: nothing is tried"
c = ctypes.CDLL(None, use_errno=True)
def denied(what, value):
    code = ctypes.get_errno()
    assert value == -1 and code in (errno.EPERM, errno.EACCES, errno.EINVAL), (what, value, code)
os.makedirs("/tmp/m", exist_ok=True)  # where it does little harm should it succeed
denied("mount", c.mount(b"x", b"/tmp/m", b"tmpfs", 0, None))
denied("umount", c.umount2(b"/proc", 2))
denied("chroot", c.chroot(b"/tmp"))
denied("sethostname", c.sethostname(b"x", 1))
for flag in (0x20000, 0x40000000, 0x20000000, 0x04000000):
    denied("unshare", c.unshare(flag))
denied("setuid", c.setuid(0))
denied("mknod", c.mknod(b"/tmp/disk", 0o60600, 0xfe00))
denied("reboot", c.reboot(0))
for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern"):
    try:
        open(path, "w").write("x")
        raise AssertionError(path)
    except OSError:
        pass
print("denied")
"""
    async with box(host, Spec(readonly=READONLY)) as sandbox:
        assert await python(sandbox, program) == b"denied\n"


async def check_dangerous_calls_are_filtered(host: Host) -> None:
    program = """
import ctypes, errno, platform
c = ctypes.CDLL(None, use_errno=True)
def answer(number, *arguments):
    assert c.syscall(number, *arguments) == -1, number
    return ctypes.get_errno()
x86 = platform.machine() == "x86_64"
assert c.unshare(0x10000000) == -1 and ctypes.get_errno() == errno.EPERM, "unshare(CLONE_NEWUSER)"
assert answer(56 if x86 else 220, 0x10000000 | 17, 0, 0, 0, 0) == errno.EPERM, "clone(CLONE_NEWUSER)"
assert answer(435, 0, 0) == errno.ENOSYS, "clone3"
assert answer(425, 1, 0) == errno.ENOSYS, "io_uring_setup"
for name, number in (("bpf", 321 if x86 else 280), ("ptrace", 101 if x86 else 117), ("keyctl", 250 if x86 else 219),
                     ("perf_event_open", 298 if x86 else 241), ("add_key", 248 if x86 else 217)):
    assert answer(number, 0, 0, 0, 0, 0) == errno.EPERM, name
for family in (17, 38, 40):  # AF_PACKET, AF_ALG, AF_VSOCK
    assert c.socket(family, 1, 0) == -1 and ctypes.get_errno() == errno.EAFNOSUPPORT, family
for family in (1, 2, 10, 16):
    assert c.socket(family, 3 if family == 16 else 1, 0) >= 0, family
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("Seccomp")])
"""
    async with box(host, Spec(readonly=READONLY)) as sandbox:
        assert await python(sandbox, program) == b"['2', '1']\n"


async def check_only_own_processes_are_seen(host: Host) -> None:
    async with box(host) as sandbox:
        result = await sandbox.exec("ls -d /proc/[0-9]* | wc -l; kill -9 1; kill -9 -1; sleep 0.2; echo no")
        assert int(result.stdout.split()[0]) <= 6, result
        result = await sandbox.exec("echo alive")
        assert result.stdout == b"alive\n", result


async def check_the_first_process_is_out_of_reach(host: Host) -> None:
    async with box(host) as sandbox:
        for command in ("head -c 1 /proc/1/environ", "head -c 1 /proc/1/mem", "ls /proc/1/fd", "ls /proc/1/root/"):
            assert (await sandbox.exec(command)).exit_code != 0, command
        assert b"/" not in (await sandbox.exec("cat /proc/1/cmdline")).stdout


async def check_sandboxes_do_not_see_one_another(host: Host) -> None:
    spec = Spec(readonly=READONLY)
    listen = "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('\\0x'); s.listen(); time.sleep(20)"
    async with box(host, spec) as one, box(host, spec) as two:
        await one.exec("for d in /app /tmp /dev/shm /logs; do echo secret > $d/mine; done; sleep 31.4159 &")
        await one.exec(f'{PYTHON} -c "{listen}" &')
        await asyncio.sleep(0.2)
        for sandbox, found in ((one, b"4\n"), (two, b"0\n")):
            result = await sandbox.exec("cat /app/mine /tmp/mine /dev/shm/mine /logs/mine 2>/dev/null | wc -l")
            assert result.stdout == found, result
        assert b"31.4159" not in (await two.exec("cat /proc/[0-9]*/cmdline")).stdout
        connect = "import socket; print(socket.socket(socket.AF_UNIX).connect_ex('\\0x'))"
        assert await python(one, connect) == b"0\n"
        assert await python(two, connect) != b"0\n"


async def check_each_sandbox_has_its_own_user(host: Host) -> None:
    async with box(host) as one, box(host) as two:
        uids = {int((await sandbox.exec("id -u")).stdout) for sandbox in (one, two)}
        assert len(uids) == 2, uids


async def check_the_root_belongs_to_root(host: Host) -> None:
    async with box(host) as sandbox:
        result = await sandbox.exec(
            "stat -c %u / /etc /dev /usr; chmod 777 /etc; mv /etc /tmp/; rm -f /etc/passwd; true"
        )
        assert result.stdout == b"0\n0\n0\n0\n", result
        assert b"agent" in await sandbox.read("/etc/passwd")


async def check_readonly_directories(host: Host) -> None:
    with tempfile.TemporaryDirectory() as shared:
        os.chmod(shared, 0o777)
        fd = os.open(f"{shared}/tool", os.O_WRONLY | os.O_CREAT, 0o755)
        os.write(fd, b"#!/bin/sh\necho tool\n")
        os.close(fd)
        async with box(host, Spec(readonly=(shared,))) as sandbox:
            assert (await sandbox.exec([f"{shared}/tool"])).stdout == b"tool\n"
            for command in ("echo x > {}/new", "rm {}/tool", "echo x >> {}/tool", "chmod 777 {}/tool"):
                assert (await sandbox.exec(command.format(shared))).exit_code != 0, command
        assert os.listdir(shared) == ["tool"]
    assert shared in await raised(host.start(Spec(readonly=(shared,))), StartFailed, "a directory that is not there")


async def check_memory_is_limited(host: Host) -> None:
    async with box(host, Spec(limits=Limits(memory_mb=64), readonly=READONLY)) as sandbox:
        bomb = [PYTHON, "-I", "-c", "x = []\nwhile True: x.append(bytearray(1 << 20))"]
        result = await sandbox.exec(bomb)
        assert (result.status, result.exit_code) == (Status.OOM, 137), result
        assert (await sandbox.exec("kill -9 $$")).status is Status.SIGNALLED, "an old kill is not a new one"
        result = await sandbox.exec("echo alive")
        assert result.stdout == b"alive\n", result
        shell = await sandbox.exec(f"{PYTHON} -I -c 'bytearray(200 << 20)'; exit $?")
        assert shell.status is Status.OOM, shell


async def check_processes_are_limited(host: Host) -> None:
    async with box(host, Spec(limits=Limits(pids=24))) as sandbox:
        result = await sandbox.exec("for i in $(seq 60); do sleep 20 & done; wait", timeout_s=3)
        assert b"ork" in result.stderr or result.status is Status.EXITED, result
        result = await sandbox.exec("b() { b | b & }; b; sleep 5", timeout_s=1.0)
        for _ in range(50):
            if (await sandbox.exec("echo alive")).stdout == b"alive\n":
                return
            await asyncio.sleep(0.1)
        raise AssertionError("a fork bomb took the sandbox")


async def check_disk_is_limited(host: Host) -> None:
    async with box(host, Spec(limits=Limits(disk_mb=8, inodes=300))) as sandbox:
        result = await sandbox.exec("dd if=/dev/zero of=/tmp/big bs=1M count=20; stat -c %s /tmp/big; rm /tmp/big")
        assert b"No space left" in result.stderr, result
        assert int(result.stdout) <= 8 << 20, result
        assert "space" in await raised(sandbox.write("big", bytes(12 << 20)), PathRefused)
        await sandbox.exec("rm -f big")
        assert not (await sandbox.exec("exit 3")).disk_full
        assert (await sandbox.exec("dd if=/dev/zero of=/tmp/big bs=4k count=9999")).disk_full
        assert not (await sandbox.exec("rm /tmp/big; exit 3")).disk_full
        result = await sandbox.exec("seq 1 900 | xargs touch; ls | wc -l; exit 4")
        assert (result.exit_code, result.disk_full) == (4, True)
        assert b"No space left" in result.stderr, result
        assert 250 < int(result.stdout) < 500, result


_BUSY = """
import os, time
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
end = time.time() + 1.2
for _ in range({n}):
    if not os.fork():
        while time.time() < end: pass
        os._exit(0)
for _ in range({n}): os.wait()
used = os.times()
print(used.children_user + used.children_system)
"""


async def check_the_processor_is_shared_by_sandbox(host: Host) -> None:
    spec = Spec(readonly=READONLY)
    async with box(host, spec) as many, box(host, spec) as few:  # all on one core
        greedy, modest = await asyncio.gather(python(many, _BUSY.format(n=12)), python(few, _BUSY.format(n=1)))
        assert float(modest) > float(greedy) / 3, (modest, greedy)  # by process it would be a twelfth


async def check_the_processor_is_limited(host: Host) -> None:
    async with box(host, Spec(limits=Limits(cpus=0.2), readonly=READONLY)) as sandbox:
        assert float(await python(sandbox, _BUSY.format(n=3))) < 0.6


CHECKS = {
    "paths": (check_the_shared_directories_are_there,),
    "walls": (
        check_the_host_is_out_of_sight,
        check_the_system_cannot_be_changed,
        check_the_kernel_is_not_read_for_it,
        check_only_own_processes_are_seen,
        check_sandboxes_do_not_see_one_another,
        check_readonly_directories,
    ),
    "user": (check_the_user_is_nobody_special, check_privileged_calls_fail),
    "processes": (check_the_first_process_is_out_of_reach,),
    "root": (check_each_sandbox_has_its_own_user, check_the_root_belongs_to_root),
    "filter": (check_dangerous_calls_are_filtered,),
    "cpu": (check_the_processor_is_shared_by_sandbox, check_the_processor_is_limited),
    "memory": (check_memory_is_limited,),
    "pids": (check_processes_are_limited,),
    "disk": (check_disk_is_limited,),
}

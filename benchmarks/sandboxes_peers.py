"""What other tools of this machine need to start a sandbox, beside ours: rounds of one start each, all in one run.

    python benchmarks/sandboxes_peers.py [--rounds N] [--json PATH] [--podman COMMAND] [--image NAME]

A start counts from asking to the end of `true` in the sandbox, and its removal; ours is a start, a command and a close,
too. The rounds go through all tools, each time in another order and with a pause before each, so that whatever else the
machine does meets all alike. A tool that is not here, or does not work here, is named with the reason. runc and crun
see the machine's /usr, read only; podman starts from the image NAME, by default its first one. None of them installs a
seccomp filter, which is no matter of speed: many of them at once have stopped a kernel (docs/sandboxes.md).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from palmette.sandbox.api import Host, Spec
from palmette.sandbox.hosts import open_host

Row = dict[str, str | float]
Start = Callable[[], None]
_PAUSE_S = 0.1  # what the last one left to the kernel, a network namespace above all, is not to slow the next
_SPACES = ("pid", "mount", "network", "ipc", "uts")


class Absent(Exception):
    """A tool that is not here, or does not work here."""


def main() -> None:
    """Measure, print, and write the rows down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    parser.add_argument("--image", default="", help="podman's image")
    parser.add_argument("--podman", default="podman", help="the program and its global flags")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, asyncio.Runner() as runner:
        host = open_host("namespace")
        try:
            starts = _working(runner, host, Path(scratch), arguments.podman.split(), arguments.image)
            rows = measure(starts, arguments.rounds, lambda: runner.run(asyncio.sleep(_PAUSE_S)))
        finally:
            runner.run(host.close())
    for row in rows:
        print(f"{row['backend']:12} {row['metric']:14} {row['value']:10.2f} {row['unit']}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


def measure(starts: dict[str, Start], rounds: int, pause: Start) -> list[Row]:
    """Return p50 and p99 of each start, taken in turn, in another order each round."""
    times: dict[str, list[float]] = {name: [] for name in starts}
    order, dice = list(starts), random.Random(0)
    for _ in range(rounds):
        dice.shuffle(order)
        for name in order:
            pause()
            start = starts[name]
            began = time.perf_counter()
            start()
            times[name].append((time.perf_counter() - began) * 1e3)
    return [
        {"backend": name, "metric": f"start_{quantile}_ms", "value": _quantile(found, q), "unit": "ms"}
        for name, found in times.items()
        for quantile, q in (("p50", 0.5), ("p99", 0.99))
    ]


def _working(runner: asyncio.Runner, host: Host, scratch: Path, podman: list[str], image: str) -> dict[str, Start]:
    """Return the tools that work here, each tried twice: what is paid once is paid then."""
    tools: dict[str, Callable[[], Start]] = {
        "namespace": lambda: lambda: runner.run(_ours(host)),
        "subprocess": lambda: _command(["true"]),
        "bubblewrap": _bubblewrap,
        "runc": lambda: _bundle(["runc", "--root", str(scratch / "runc")], scratch / "runc-bundle"),
        "crun": lambda: _bundle([*_crun(), "--root", str(scratch / "crun")], scratch / "crun-bundle"),
        "podman": lambda: _podman(podman, image),
    }
    found = {}
    for name, tool in tools.items():
        try:
            start = tool()
            start()
            start()
            found[name] = start
        except Absent as error:
            print(f"{name:12} not measured: {error}")
    return found


async def _ours(host: Host) -> None:
    sandbox = await host.start(Spec(owner="benchmark"))
    assert (await sandbox.exec(["true"])).exit_code == 0
    await sandbox.close()


def _bubblewrap() -> Start:
    walls = "--ro-bind / / --proc /proc --dev /dev --tmpfs /tmp --unshare-all --die-with-parent"
    return _command(["bwrap", *walls.split(), "true"])


def _bundle(program: list[str], bundle: Path) -> Start:
    """Return a start of an OCI runtime: no cgroup, no seccomp, no network but loopback."""
    if not shutil.which(program[0]):
        raise Absent("not installed")
    root = bundle / "root"
    root.mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    mounts = [
        {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64m"]},
    ]
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 65534, "gid": 65534},
            "args": ["true"],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind} for kind in _SPACES]},
    }
    (bundle / "config.json").write_text(json.dumps(config))
    serial = iter(range(1_000_000))

    def start() -> None:
        _run([*program, "run", "--bundle", str(bundle), f"palmette-{os.getpid()}-{next(serial)}"])

    return start


def _crun() -> list[str]:
    """Return crun without cgroups; where v1 and v2 are mixed, it goes on only when it does not see v2."""
    if not shutil.which("crun"):
        raise Absent("not installed")
    crun = ["crun", "--cgroup-manager=disabled"]
    mixed = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"]
    if mixed and mixed != ["/sys/fs/cgroup"]:
        return ["unshare", "-m", "sh", "-c", f'umount {mixed[0]} && exec "$@"', "sh", *crun]
    return crun


def _podman(podman: list[str], image: str) -> Start:
    if not shutil.which(podman[0]):
        raise Absent("not installed")
    podman = [*podman, "--cgroup-manager=cgroupfs"]
    if not image:
        listed = subprocess.run([*podman, "images", "-q"], capture_output=True, text=True).stdout.split()
        if not listed:
            raise Absent("it has no image (podman import TAR NAME, then --image NAME)")
        image = listed[0]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = [f"--ulimit=nofile={most}:{most}", "--ulimit=nproc=4096:4096"]  # its own are more than some users may set
    walls = ["--network=none", "--security-opt=seccomp=unconfined", "--read-only"]
    return _command([*podman, "run", "--rm", *walls, *limits, image, "true"])


def _command(command: list[str]) -> Start:
    if not shutil.which(command[0]):
        raise Absent("not installed")
    return lambda: _run(command)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise Absent(said[:300])


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


if __name__ == "__main__":
    main()

"""Kill owners of sandboxes in the middle of their work, reap, and count what is left: it must be nothing.

    python tests/sandbox/kill_owners.py [--times 1000] [--seed 0]

Every second time the fork server (or one of the shards) is killed in the same moment, which leaves all of that to the
reaper.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from palmette.sandbox import cgroup
from palmette.sandbox.api import SandboxError, Spec
from palmette.sandbox.conformance import lacks
from palmette.sandbox.hosts import open_host
from palmette.sandbox.ledger import journals, start_time, state_directory
from palmette.sandbox.reap import reap
from palmette.sandbox.shards.host import ShardsHost


async def work(name: str, mark: str, seed: int, busy: int) -> None:
    """Start, fork, pause and close sandboxes until somebody ends it; pids of its helpers to `busy` at the first."""
    dice = random.Random(seed)
    host = open_host(name)
    pauses = "pause" not in lacks(host)
    live = [await host.start(Spec(owner="kill_owners", gateway=("127.0.0.1", 9)))]
    if isinstance(host, ShardsHost):
        helpers = list(host.shards)
    else:
        helpers = [host._server.process.pid] if name == "namespace" else []
    os.write(busy, json.dumps(helpers).encode())

    async def one() -> None:
        sandbox = dice.choice(live)
        with contextlib.suppress(SandboxError):
            match dice.randrange(6):
                case 0:
                    live.append(await host.start(Spec(owner="kill_owners")))
                case 1:
                    await sandbox.exec(f"(setsid sleep {mark} &); sleep {mark} & head -c 100000 /dev/zero > f")
                case 2:
                    live.extend(await sandbox.fork(2))
                case 3 if pauses:
                    await sandbox.pause()
                case 4:
                    await sandbox.resume() if pauses else None
                case 5 if len(live) > 4:
                    live.remove(sandbox)
                    await sandbox.close()

    while True:
        await asyncio.gather(*(one() for _ in range(4)))


def trial(name: str, seed: int) -> list[str]:
    """Return what is left of an owner that was killed at a random moment, in words."""
    dice = random.Random(seed)
    mark = f"77.{os.getpid()}{seed:09d}"
    ready, busy = os.pipe()
    owner = os.fork()
    if owner == 0:
        os.close(ready)
        try:
            asyncio.run(work(name, mark, seed, busy))
        finally:
            os._exit(1)
    os.close(busy)
    helpers = json.loads(os.read(ready, 4096) or b"[]")
    os.close(ready)
    time.sleep(dice.uniform(0, 0.3))
    if helpers and seed % 2:
        os.kill(helpers[0], signal.SIGKILL)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    owners = {owner, *(helpers if name == "shards" else ())}
    deadline = time.monotonic() + 60
    while any(start_time(pid) for pid in owners) and time.monotonic() < deadline:  # shards end by themselves
        time.sleep(0.01)
    left = list(reap().stuck) + processes_with(mark)
    for pid in owners:
        left += [f"process {one}" for one in processes_in(f"/palmette-{pid}-")] + [f"shard {pid}"] * bool(
            start_time(pid)
        )
        left += [f"cgroup {path}" for path in cgroups_of(pid)]
        left += [f"journal {journal.name}" for journal in journals() if journal.pid == pid]
    return left


def processes_with(argument: str) -> list[str]:
    """Return the processes that have this argument, in words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if argument.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(f"process {entry.name}")
    return found


def processes_in(cgroup_name: str) -> list[int]:
    """Return the processes in cgroups whose path has this in it: network namespaces and mounts end with them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if cgroup_name in (entry / "cgroup").read_text():
                    found.append(int(entry.name))
    return found


def cgroups_of(pid: int) -> list[Path]:
    """Return what is left of the cgroups of this owner."""
    return [path for base in cgroup.detect().directories for path in base.glob(f"palmette-{pid}-*") if path.is_dir()]


def main() -> None:
    """Print one JSON line: how many owners were killed, what was left, files included."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="palmette-kills-")
    os.environ["XDG_STATE_HOME"] = scratch
    tempfile.tempdir = scratch
    left: list[str] = []
    for time_ in range(arguments.times):
        name = {7: "fake", 2: "shards", 5: "shards"}.get(time_ % 8, "namespace")
        left += trial(name, arguments.seed + time_)
    left += [f"file {path}" for path in (*Path(scratch).glob("palmette-fake-*"), *state_directory().iterdir())]
    shutil.rmtree(scratch)
    print(json.dumps({"killed": arguments.times, "left": left}))


if __name__ == "__main__":
    main()

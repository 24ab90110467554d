"""Kill owners of sandboxes in the middle of their work, reap, and count what is left: it must be nothing.

    python tests/sandbox/kill_owners.py [--times 1000] [--seed 0]

Every second time the fork server is killed in the same moment, which leaves everything to the reaper.
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
from palmette.sandbox.ledger import journals, state_directory
from palmette.sandbox.reap import reap


async def work(name: str, mark: str, seed: int, busy: int) -> None:
    """Start, fork, pause and close sandboxes until somebody ends it; one byte to `busy` once there is a first."""
    dice = random.Random(seed)
    host = open_host(name)
    pauses = "pause" not in lacks(host)
    live = [await host.start(Spec(owner="kill_owners", gateway=("127.0.0.1", 9)))]
    os.write(busy, b"%d\n" % (host._server.process.pid if name == "namespace" else 0))

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
    server = int(os.read(ready, 64) or b"0")
    os.close(ready)
    time.sleep(dice.uniform(0, 0.3))
    if server and seed % 2:
        os.kill(server, signal.SIGKILL)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    reaped = reap()
    left = list(reaped.stuck)
    left += [f"process {pid}" for pid in processes_with(mark) + processes_in(f"/palmette-{owner}-")]
    left += [f"cgroup {path}" for path in cgroups_of(owner)]
    left += [f"journal {journal.name}" for journal in journals() if journal.pid == owner]
    return left


def processes_with(argument: str) -> list[int]:
    """Return the processes that have this argument."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if argument.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
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
        left += trial("fake" if time_ % 8 == 7 else "namespace", arguments.seed + time_)
    left += [f"file {path}" for path in (*Path(scratch).glob("palmette-fake-*"), *state_directory().iterdir())]
    shutil.rmtree(scratch)
    print(json.dumps({"killed": arguments.times, "left": left}))


if __name__ == "__main__":
    main()

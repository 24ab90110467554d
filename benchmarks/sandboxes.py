"""What sandboxes cost: starts, commands, forks, memory, ends; beside a bare process and other tools of this machine.

    python benchmarks/sandboxes.py [--quick] [--json PATH] [--live N] [--host NAME ...]

Rows are {backend, metric, value, unit}. The bound is ``subprocess``: a bare fork + exec without any isolation. One
start counts until the sandbox is usable, a fork until the copy is. `exec_p50_ms` is a script that needs no program
(`true`) from asking to its result, where scripts come one after another; `exec_process_p50_ms` the program /bin/true;
`exec_script_p50_ms` a script with one program; `shell_p50_ms` a line to a shell that is open already and its answer.
``--live N`` instead brings up N sandboxes, asks all of them at once for an answer, and ends them; ends are throttled by
the host, so it takes a while.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sandboxes_live import measure_live

from palmette.sandbox.api import Limits, Spec, State, Streams
from palmette.sandbox.hosts import HOSTS, open_host

Row = dict[str, str | float]
_WAYS = 16
_DIRTY_MB = 256
_BUBBLEWRAP = "bwrap --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp --unshare-all true"
_PEERS = {
    "subprocess": "true",
    "unshare": "unshare -m -p -f -n -i -u true",
    "bubblewrap": _BUBBLEWRAP,
}


def main() -> None:
    """Measure, print, and write the rows down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    parser.add_argument("--live", type=int, metavar="N", help="only this: N live at once (default host: shards)")
    parser.add_argument("--commands", type=int, default=1_000_000, help="with --live: how many run a command at most")
    parser.add_argument("--host", action="append", choices=sorted(HOSTS), help="which of our hosts (default: two)")
    arguments = parser.parse_args()
    samples = 30 if arguments.quick else 300
    if arguments.live:
        host = open_host((arguments.host or ["shards"])[0])
        rows = asyncio.run(measure_live(host, arguments.live, arguments.commands))
    else:
        names = arguments.host or ["namespace", "fake"]
        rows = [row for name in names for row in asyncio.run(measure_host(name, samples))]
        for name, command in _PEERS.items():
            if shutil.which(command.split()[0]):
                rows += measure_command(name, command.split(), samples)
    for row in rows:
        print(f"{row['backend']:12} {row['metric']:26} {row['value']:12.3f} {row['unit']}")
    if arguments.json:
        temporary = Path(arguments.json + ".new")
        temporary.write_text(json.dumps(rows, indent=1))
        os.replace(temporary, arguments.json)


async def measure_host(name: str, samples: int) -> list[Row]:
    """Return the rows of one of our hosts."""
    host = open_host(name)
    try:
        await (await host.start(Spec())).close()  # compiles, launches: paid once
        rows = await _starts(host, name, samples)
        rows += await _commands(host, name, samples)
        rows += await _forks(host, name, max(40, samples // 3))
        return rows
    finally:
        await host.close()


async def _starts(host, name: str, samples: int) -> list[Row]:
    times = []
    for _ in range(samples):
        began = time.perf_counter()
        sandbox = await host.start(Spec())
        times.append(_ms(began))
        await sandbox.close()
    gate = asyncio.Semaphore(_WAYS)

    async def one():
        async with gate:
            return await host.start(Spec())

    before_kib = _available_kib()
    began = time.perf_counter()
    live = await asyncio.gather(*(one() for _ in range(samples)))
    rate = samples / (time.perf_counter() - began)
    idle_kib = max(0.0, (before_kib - _available_kib()) / samples)
    began = time.perf_counter()
    await asyncio.gather(*(sandbox.close() for sandbox in live))
    ends = samples / (time.perf_counter() - began)
    return [
        _row(name, "start_p50_ms", _quantile(times, 0.5), "ms"),
        _row(name, "start_p99_ms", _quantile(times, 0.99), "ms"),
        _row(name, "starts_per_s", rate, "1/s"),
        _row(name, "idle_kib", idle_kib, "KiB"),
        _row(name, "ends_per_s", ends, "1/s"),
    ]


async def _commands(host, name: str, samples: int) -> list[Row]:
    sandbox = await host.start(Spec())
    processes = await _timed(lambda: sandbox.exec(["/bin/true"]), samples)
    execs = await _timed(lambda: sandbox.exec("true"), samples)
    scripts = await _timed(lambda: sandbox.exec("echo hi > f; cat f"), samples)
    rows = [
        _row(name, "exec_p50_ms", _quantile(execs, 0.5), "ms"),
        _row(name, "exec_p99_ms", _quantile(execs, 0.99), "ms"),
        _row(name, "exec_process_p50_ms", _quantile(processes, 0.5), "ms"),
        _row(name, "exec_script_p50_ms", _quantile(scripts, 0.5), "ms"),
    ]
    if isinstance(sandbox, Streams):
        shell = await sandbox.open(["/bin/sh"])
        answers = shell.output()

        async def ask() -> None:
            await shell.write(b"echo hi\n")
            assert await anext(answers) == ("stdout", b"hi\n")

        rows.append(_row(name, "shell_p50_ms", _quantile(await _timed(ask, samples), 0.5), "ms"))
        await shell.end_input()
    await sandbox.close()
    return rows


async def _forks(host, name: str, samples: int) -> list[Row]:
    rows = []
    for metric, size_mb in (("fork", 0), ("fork_dirty", _DIRTY_MB)):
        spec = Spec(limits=Limits(disk_mb=2 * _DIRTY_MB, memory_mb=1024))
        sandbox = await host.start(spec)
        if not isinstance(sandbox, State):
            return []
        await sandbox.exec(f"head -c {size_mb << 20} /dev/zero > dirty", timeout_s=60)
        times = []
        for number in range(samples if name == "namespace" or not size_mb else 5):
            await sandbox.write(f"f{number % 40}", b"changed")  # else there is nothing to freeze
            began = time.perf_counter()
            (copy,) = await sandbox.fork()
            times.append(_ms(began))
            await copy.close()
        began = time.perf_counter()
        copies = await sandbox.fork(_WAYS)
        each_ms = _ms(began) / _WAYS
        await asyncio.gather(sandbox.close(), *(copy.close() for copy in copies))
        rows.append(_row(name, f"{metric}_p50_ms", _quantile(times, 0.5), "ms"))
        rows.append(_row(name, f"{metric}_{_WAYS}_each_ms", each_ms, "ms"))
    return rows


def measure_command(name: str, command: list[str], samples: int) -> list[Row]:
    """Return rows of a peer: start, run ``true``, end."""
    times = []
    for _ in range(samples):
        began = time.perf_counter()
        if subprocess.run(command, capture_output=True).returncode:
            return []
        times.append(_ms(began))
    return [
        _row(name, "start_p50_ms", _quantile(times, 0.5), "ms"),
        _row(name, "start_p99_ms", _quantile(times, 0.99), "ms"),
    ]


async def _timed(action: Callable[[], Awaitable[object]], samples: int) -> list[float]:
    times = []
    for _ in range(samples):
        began = time.perf_counter()
        await action()
        times.append(_ms(began))
    return times


def _available_kib() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def _ms(began: float) -> float:
    return (time.perf_counter() - began) * 1e3


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


def _row(backend: str, metric: str, value: float, unit: str) -> Row:
    return {"backend": backend, "metric": metric, "value": round(value, 4), "unit": unit}


if __name__ == "__main__":
    main()

"""How fast sandboxes start and run commands: latency one at a time, throughput 16 at a time.

    python benchmarks/sandbox_start.py [--quick] [--json PATH]

Peers on the same machine in the same run: the bound is a bare fork + exec without any isolation (``subprocess``), then
bubblewrap and unshare(1) where they are installed. A start counts until the first command has answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable

from palmette.sandbox.api import Spec
from palmette.sandbox.hosts import HOSTS, open_host

_BWRAP = [
    "bwrap",
    "--ro-bind",
    "/",
    "/",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
    "--unshare-all",
    "true",
]
_PEERS = {
    "subprocess (no isolation)": ["true"],
    "unshare(1), 5 namespaces": ["unshare", "-m", "-p", "-f", "-n", "-i", "-u", "true"],
    "bubblewrap": _BWRAP,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    arguments = parser.parse_args()
    samples = 30 if arguments.quick else 300
    rows = [row for name in HOSTS for row in asyncio.run(measure_host(name, samples))]
    for name, command in _PEERS.items():
        if shutil.which(command[0]):
            rows += measure_command(name, command, samples)
    for row in rows:
        print(f"{row['backend']:28} {row['metric']:22} {row['value']:10.2f} {row['unit']}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file, indent=1)


async def measure_host(name: str, samples: int) -> list[dict]:
    """Return flat rows {backend, metric, value, unit} of one of our hosts."""
    host = open_host(name)
    try:
        await (await host.start(Spec())).close()  # compiles, launches: paid once

        async def start_and_answer() -> None:
            sandbox = await host.start(Spec())
            await sandbox.exec(["/bin/true"])
            await sandbox.close()

        bare = await _timed(lambda: _start_only(host), samples)
        full = await _timed(start_and_answer, samples)
        sandbox = await host.start(Spec())
        execs = await _timed(lambda: sandbox.exec(["/bin/true"]), samples)
        shells = await _timed(lambda: sandbox.exec("echo hi > f; cat f"), samples)
        await sandbox.close()
        gate = asyncio.Semaphore(16)

        async def one() -> None:
            async with gate:
                await _start_only(host)

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(samples)))
        rate = samples / (time.perf_counter() - began)
        return [
            _row(name, "start p50", _quantile(bare, 0.5), "ms"),
            _row(name, "start p99", _quantile(bare, 0.99), "ms"),
            _row(name, "start+exec+close p50", _quantile(full, 0.5), "ms"),
            _row(name, "start+exec+close p99", _quantile(full, 0.99), "ms"),
            _row(name, "exec /bin/true p50", _quantile(execs, 0.5), "ms"),
            _row(name, "exec /bin/true p99", _quantile(execs, 0.99), "ms"),
            _row(name, "exec sh, 2 commands p50", _quantile(shells, 0.5), "ms"),
            _row(name, "starts, 16 at once", rate, "1/s"),
        ]
    finally:
        await host.close()


def measure_command(name: str, command: list[str], samples: int) -> list[dict]:
    """Return rows of a peer: start, run ``true``, end."""
    times = []
    for _ in range(samples):
        began = time.perf_counter()
        if subprocess.run(command, capture_output=True).returncode:
            return []
        times.append((time.perf_counter() - began) * 1e3)
    return [
        _row(name, "start+exec+close p50", _quantile(times, 0.5), "ms"),
        _row(name, "start+exec+close p99", _quantile(times, 0.99), "ms"),
    ]


async def _start_only(host) -> float:
    began = time.perf_counter()
    sandbox = await host.start(Spec())
    took_ms = (time.perf_counter() - began) * 1e3
    await sandbox.close()
    return took_ms


async def _timed(action: Callable[[], Awaitable[object]], samples: int) -> list[float]:
    times = []
    for _ in range(samples):
        began = time.perf_counter()
        answer = await action()
        times.append(answer if isinstance(answer, float) else (time.perf_counter() - began) * 1e3)
    return times


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


def _row(backend: str, metric: str, value: float, unit: str) -> dict:
    return {"backend": backend, "metric": metric, "value": round(value, 3), "unit": unit}


if __name__ == "__main__":
    main()

"""Many sandboxes at once: brought up in steps, asked all together, given a command each, ended, and looked for.

What ``sandboxes.py --live N`` runs. It climbs while there is memory and the kernel is well, and says why it stops. The
limit `kernel.pid_max` is raised for the time of it, where that is allowed; the library itself never does.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palmette.sandbox import cgroup
from palmette.sandbox.api import Host, Spec
from palmette.sandbox.ledger import journals
from palmette.sandbox.seccomp import stuck_workers

Row = dict[str, str | float]
_STEP = 500  # between two looks at the machine
_WAYS = 16  # starts at once
_COMMANDS = 128  # at once: each is a process more
_RESERVE_KIB = 3 << 20  # of memory, where the climb ends
_STUCK = 50  # kernel workers
_SETTLE_S = 30.0  # without any progress of the kernel, which takes some milliseconds for a network namespace
_PID_MAX = Path("/proc/sys/kernel/pid_max")
_PARTS = ("Slab", "KernelStack", "PageTables", "Percpu", "AnonPages", "Shmem", "VmallocUsed")


async def measure_live(host: Host, count: int, commands: int) -> list[Row]:
    """Return the rows of `count` sandboxes of `host` at once, or of as many as there was room for.

    The first process of each is asked for a sign of life, by one `roll_call` where the host has it (`live_answer_s`)
    and by a call each (`live_call_each_s`); then `commands` of them run one.
    """
    left_before = _left(set())
    with _room_for_processes(3 * count):
        await (await host.start(Spec())).close()  # compiles, launches: paid once
        owners = set(getattr(host, "shards", {os.getpid(): 1}))
        before = _memory_kib()
        live, times, up_s = await _climb(host, count)
        after = _memory_kib()
        n = max(1, len(live))
        said, each_s = await _timed(live, lambda sandbox: sandbox.running(), len(live))
        answered, answer_s = said.count(0), each_s
        if roll_call := getattr(host, "roll_call", None):
            began = time.perf_counter()
            answered = list((await roll_call()).values()).count(0)
            answer_s = time.perf_counter() - began
        results, exec_s = await _commands(live[:commands])
        used = _memory_kib()
        _say(
            f"{len(live)} live, {answered} answered in {answer_s:.2f} s ({each_s:.2f} by a call each), "
            f"{len(results)} commands took {exec_s:.1f} s; ending them"
        )
        began = time.perf_counter()
        await asyncio.gather(*(sandbox.close() for sandbox in live))
        down_s = time.perf_counter() - began
        await host.close()
        _say(f"ended in {down_s:.1f} s; looking for what is left")
        leaked = _what_is_left(owners, left_before)
    rows = [
        ("live", len(live), ""),
        ("live_starts_per_s", n / up_s, "1/s"),
        ("live_start_p50_ms", _quantile(times, 0.5), "ms"),
        ("live_start_p99_ms", _quantile(times, 0.99), "ms"),
        ("live_kib", (before["MemAvailable"] - after["MemAvailable"]) / n, "KiB"),
        *((f"live_{part}_kib", (after[part] - before[part]) / n, "KiB") for part in _PARTS),
        ("live_answered", answered, ""),
        ("live_answer_s", answer_s, "s"),
        ("live_call_each_s", each_s, "s"),
        ("live_commands", sum(getattr(result, "exit_code", 1) == 0 for result in results), ""),
        ("live_commands_s", exec_s, "s"),
        ("live_commands_kib", (after["MemAvailable"] - used["MemAvailable"]) / max(1, len(results)), "KiB"),
        ("live_ends_per_s", n / down_s, "1/s"),
        *((f"leaked_{what}", number, "") for what, number in leaked.items()),
        ("leaked", sum(leaked.values()), ""),
    ]
    return [{"backend": host.name, "metric": m, "value": round(value, 4), "unit": unit} for m, value, unit in rows]


async def _climb(host: Host, count: int) -> tuple[list, list[float], float]:
    """Return the sandboxes, how long each start took in ms with `_WAYS` at once, and how long all did."""
    live: list = []
    times: list[float] = []
    gate = asyncio.Semaphore(_WAYS)

    async def one() -> None:
        async with gate:
            began = time.perf_counter()
            live.append(await host.start(Spec(owner="benchmark", ttl_s=7200)))
            times.append((time.perf_counter() - began) * 1e3)

    up_s = 0.0
    while len(live) < count:
        memory, stuck = _memory_kib()["MemAvailable"], stuck_workers()
        if memory < _RESERVE_KIB or stuck >= _STUCK:
            _say(f"stopping at {len(live)}: {memory >> 10} MB of memory are available, {stuck} kernel workers wait")
            break
        began = time.perf_counter()
        done = await asyncio.gather(*(one() for _ in range(min(_STEP, count - len(live)))), return_exceptions=True)
        up_s += time.perf_counter() - began
        if failed := [error for error in done if error is not None]:
            _say(f"stopping at {len(live)}: {failed[0]}")
            break
        if len(live) % (10 * _STEP) == 0 or len(live) == count:
            _say(f"{len(live)} live after {up_s:.1f} s, {_memory_kib()['MemAvailable'] >> 10} MB available")
    return live, times, up_s


async def _commands(live: Sequence) -> tuple[list[object], float]:
    """Have a command run in one after another of the sandboxes, as long as memory lasts."""
    results: list[object] = []
    took_s = 0.0
    for first in range(0, len(live), _STEP):
        if (memory := _memory_kib()["MemAvailable"]) < _RESERVE_KIB:
            _say(f"no more commands after {first}: {memory >> 10} MB of memory are available")
            break
        some = live[first : first + _STEP]
        done, step_s = await _timed(some, lambda sandbox: sandbox.exec(["/bin/true"], timeout_s=300), _COMMANDS)
        results += done
        took_s += step_s
    return results, took_s


async def _timed(
    sandboxes: Sequence, action: Callable[[Any], Awaitable[object]], at_once: int
) -> tuple[list[object], float]:
    gate = asyncio.Semaphore(max(1, at_once))

    async def one(sandbox: object) -> object:
        async with gate:
            return await action(sandbox)

    began = time.perf_counter()
    results = await asyncio.gather(*map(one, sandboxes), return_exceptions=True)
    return results, time.perf_counter() - began


@contextmanager
def _room_for_processes(count: int) -> Iterator[None]:
    """Raise the kernel's limit on processes if need be, and put it back."""
    before = int(_PID_MAX.read_text())
    wanted = min(4_194_304, count + 8192)
    raised = False
    if before < wanted:
        try:
            _PID_MAX.write_text(str(wanted))
            raised = True
        except OSError as error:
            _say(f"kernel.pid_max stays at {before}: {error.strerror}")
    try:
        yield
    finally:
        if raised:
            _PID_MAX.write_text(str(before))


def _left(owners: set[int]) -> dict[str, int]:
    """Count what there is of the sandboxes of these processes, and of some things on the whole machine."""
    processes = 0
    marks = [f"/palmette-{pid}-" for pid in owners]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                group = (entry / "cgroup").read_text()
            except OSError:  # it ended meanwhile
                continue
            processes += any(mark in group for mark in marks)
            processes += int(entry.name) in owners - {os.getpid()}
    temporary = Path(tempfile.gettempdir())
    groups = [entry for base in cgroup.detect().directories for entry in base.iterdir()]
    return {
        "processes": processes,
        "cgroups": sum(entry.name.startswith(f"palmette-{pid}-") for pid in owners for entry in groups),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "network_namespaces": _network_namespaces(),
        "files": sum(1 for _ in temporary.glob("palmette-*")) + sum(journal.pid in owners for journal in journals()),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def _what_is_left(owners: set[int], before: dict[str, int]) -> dict[str, int]:
    """Return what there is more of than before, once the kernel had time to tidy up."""
    deadline, least = time.monotonic() + _SETTLE_S, float("inf")
    while True:
        left = {what: max(0, number - before[what]) for what, number in _left(owners).items()}
        if not any(left.values()):
            return left
        if sum(left.values()) < least:
            deadline, least = time.monotonic() + _SETTLE_S, sum(left.values())
        if time.monotonic() > deadline:
            _say(f"left, here or by other programs: { {what: n for what, n in left.items() if n} }")
            return left
        time.sleep(1)


def _network_namespaces() -> int:
    """Count them by the kernel's own books, those without a process included (0 where they cannot be read)."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()
    except OSError:
        return 0
    slabs = next((line.split() for line in lines if line.startswith("net_namespace ")), None)
    per_slab = int(slabs[4]) if slabs else 1
    spare = 2 * per_slab * (os.cpu_count() or 1)  # freed ones that each CPU keeps at hand count as used
    return max(0, int(slabs[1]) - spare) if slabs else 0


def _memory_kib() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.partition(":")[0]: int(line.split()[1]) for line in lines}


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * q))] if values else 0.0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

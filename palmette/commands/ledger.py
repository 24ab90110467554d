"""``palmette sandbox ls | top | gc``: which sandboxes there are on this machine, whose, and what they use."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from palmette.sandbox.images import Images
from palmette.sandbox.ledger import Entry, Journal, journals
from palmette.sandbox.reap import reap

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sandbox as the books and the kernel tell it; memory and processes are None without a cgroup of its own."""

    id: str
    owner: str
    host_pid: int
    state: str  # live, late (no heartbeat), or orphan (its owner is dead: `gc` ends it)
    age_s: float
    ttl_left_s: float
    memory_mb: float | None
    processes: int | None
    cpu_s: float | None  # of processes that run now and of children they waited for


def list_sandboxes(*, as_json: bool) -> None:
    """Print every sandbox of this user, the oldest first."""
    rows = read_rows()
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    Console().print(_table(rows))
    print(_summary(rows))


def watch(*, every_s: float, by: str) -> None:
    """Show the sandboxes that use most (`by` memory, cpu or age), anew every `every_s` seconds until Ctrl-C."""
    console = Console()
    if not console.is_terminal:
        console.print(_table(_ordered(read_rows(), by)))
        return
    with suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            rows = read_rows()
            table = _table(_ordered(rows, by)[: max(1, console.height - 4)])
            table.title = _summary(rows)
            live.update(table, refresh=True)
            time.sleep(every_s)


def collect(*, as_json: bool) -> int:
    """End what dead owners left, and remove images over the budget; returns 1 if something does not end."""
    found, images = reap(), Images()
    removed = images.shrink()
    if as_json:
        print(json.dumps({**asdict(found), "images": [image.id for image in removed]}, indent=1))
    else:
        freed = sum(image.own_bytes for image in removed) / 2**20
        print(
            f"{found.hosts} dead hosts: ended {found.processes} processes, removed {found.directories} directories and "
            f"{found.containers} containers; "
            f"removed {len(removed)} images ({freed:.0f} MiB)"
        )
        for text in found.stuck:
            print(f"stuck: {text}")
    return 1 if found.stuck else 0


def read_rows() -> list[Row]:
    """Return every sandbox that is on the books."""
    rows = [_row(journal, entry) for journal in journals() for entry in journal.entries if entry.id != journal.name]
    return sorted(rows, key=lambda row: -row.age_s)


def _row(journal: Journal, entry: Entry) -> Row:
    places = [place for base in journal.directories if (place := Path(base) / entry.id).is_dir()]
    pids = _pids(places) if journal.known else []
    age_s = max(0.0, time.time() - entry.began)
    return Row(
        id=entry.id,
        owner=entry.owner,
        host_pid=journal.pid,
        state="orphan" if not journal.alive else "late" if journal.heartbeat_s > 60 else "live",
        age_s=age_s,
        ttl_left_s=entry.ttl_s - age_s,
        memory_mb=_memory_mb(places),
        processes=len(pids) if places else None,
        cpu_s=sum(map(_cpu_s, pids)) if places else None,
    )


def _pids(places: list[Path]) -> list[int]:
    for place in places:
        with suppress(OSError):
            return [int(word) for word in (place / "cgroup.procs").read_text().split()]
    return []


def _memory_mb(places: list[Path]) -> float | None:
    for place in places:
        for file in ("memory.current", "memory.usage_in_bytes"):
            with suppress(OSError):
                return int((place / file).read_text()) / 2**20
    return None


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it ended meanwhile
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS


def _ordered(rows: list[Row], by: str) -> list[Row]:
    keys = {"memory": lambda row: row.memory_mb or 0.0, "cpu": lambda row: row.cpu_s or 0.0, "age": lambda r: r.age_s}
    return sorted(rows, key=keys[by], reverse=True)


def _table(rows: list[Row]) -> Table:
    table = Table("id", "owner", "host", "state", box=None, pad_edge=False)
    for name in ("age s", "ttl left s", "MiB", "procs", "cpu s"):
        table.add_column(name, justify="right")
    for row in rows:
        numbers = (row.age_s, row.ttl_left_s, row.memory_mb, row.processes, row.cpu_s)
        shown = [
            "-" if number is None else f"{number:.1f}" if isinstance(number, float) else f"{number}"
            for number in numbers
        ]
        table.add_row(*map(escape, (row.id, row.owner or "-", str(row.host_pid), row.state, *shown)))
    return table


def _summary(rows: list[Row]) -> str:
    orphans = sum(row.state == "orphan" for row in rows)
    memory = sum(row.memory_mb or 0.0 for row in rows)
    hint = f", {orphans} orphans: palmette sandbox gc" if orphans else ""
    return f"{len(rows)} sandboxes, {memory:.0f} MiB{hint}"

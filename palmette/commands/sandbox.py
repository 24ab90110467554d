"""``palmette sandbox``: open a shell in a fresh sandbox; make, list and remove images."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from palmette.errors import UserError, suggest
from palmette.sandbox.allow_list import AllowList
from palmette.sandbox.api import Process, Sandbox, SandboxError, Spec, Streams
from palmette.sandbox.dockerfile import read_dockerfile
from palmette.sandbox.door import Neighbour
from palmette.sandbox.hosts import open_host
from palmette.sandbox.image_build import image_below, make_image
from palmette.sandbox.images import Image, Images
from palmette.sandbox.ledger import Journal, journals

_DAY_S = 24 * 3600.0
_SHELL = ("/bin/sh", "-c", 'if command -v bash >/dev/null; then exec bash "$@"; else exec sh "$@"; fi', "sh")


def shell(image: str, *, host: str, command: Sequence[str], network: Sequence[str] = ()) -> int:
    """Run a shell (or a command) in a fresh sandbox of an image ("": the machine's own), or in a running sandbox.

    Returns its exit code. With a terminal the shell has one too; else standard input is read to its end first.
    """
    try:
        AllowList(network)
    except ValueError as error:
        raise UserError(str(error)) from None
    images = Images()
    try:
        found = images.find(image) if image else None
        if image and found is None and (running := _running(image)):
            return asyncio.run(_attach(*running, command))
        if image and found is None:
            if not Path(image).exists() and not image.startswith("debootstrap"):
                known = [name for each in images.all() for name in images.names(each)]
                raise UserError(f"no image '{image}'{suggest(image, known)} (see 'palmette sandbox images list')")
            found = make_image(images, image)
        return asyncio.run(_shell(found, host, command, tuple(network)))
    except SandboxError as error:
        raise UserError(f"the sandbox failed: {error}") from None
    finally:
        images.close()


async def _attach(journal: Journal, sandbox: str, command: Sequence[str]) -> int:
    neighbour = Neighbour(journal, sandbox)
    argv = [*command] or _SHELL
    if sys.stdin.isatty() and sys.stdout.isatty():
        return await _interactive(neighbour, argv)
    visit = await neighbour.open(argv)
    feeding = asyncio.ensure_future(_pipe_in(visit))
    try:
        async for name, data in visit.output():
            stream = sys.stderr.buffer if name == "stderr" else sys.stdout.buffer
            stream.write(data)
            stream.flush()
    finally:
        feeding.cancel()
    return (await visit.wait()).exit_code


async def _pipe_in(process: Process) -> None:
    with suppress(BrokenPipeError):
        await process.write(await asyncio.to_thread(sys.stdin.buffer.read))
        await process.end_input()


def _running(name: str) -> tuple[Journal, str] | None:
    """Return the running sandbox of that id, or the one whose id begins or ends like that. Raises `UserError`."""
    found = [(journal, entry.id) for journal in journals() for entry in journal.entries if entry.id != journal.name]
    fitting = [each for each in found if each[1] == name] or [
        each for each in found if "/" in name and (each[1].startswith(name) or each[1].endswith(name))
    ]
    if len(fitting) > 1:
        raise UserError(f"'{name}' fits {len(fitting)} sandboxes (see 'palmette sandbox ls'): say more of its id")
    return fitting[0] if fitting else None


async def _shell(image: Image | None, host_name: str, command: Sequence[str], network: tuple[str, ...]) -> int:
    host = open_host(host_name)
    try:
        spec = Spec(owner="shell", ttl_s=_DAY_S, network=network)
        if image:
            workdir = image.workdir if image.workdir != "/" else spec.workdir
            spec = replace(spec, root=str(image.root), workdir=workdir, env=image.env)
        sandbox = await host.start(spec)
        argv = [*command] or _SHELL
        if sys.stdin.isatty() and sys.stdout.isatty():
            if isinstance(sandbox, Streams):
                return await _interactive(sandbox, argv)
            raise UserError(f"host '{host_name}' has no terminals; give the commands on standard input instead")
        return await _batch(sandbox, argv)
    finally:
        await asyncio.shield(host.close())


async def _batch(sandbox: Sandbox, argv: Sequence[str]) -> int:
    data = b"" if sys.stdin.isatty() else await asyncio.to_thread(sys.stdin.buffer.read)
    result = await sandbox.exec(argv, stdin=data, timeout_s=_DAY_S)
    sys.stdout.buffer.write(result.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(result.stderr)
    sys.stderr.buffer.flush()
    return result.exit_code


async def _interactive(sandbox: Streams, argv: Sequence[str]) -> int:
    size = os.get_terminal_size(sys.stdout.fileno())
    env = {"TERM": os.environ.get("TERM", "xterm"), "PS1": "sandbox:\\w\\$ "}
    process = await sandbox.open(argv, env=env, terminal=(size.lines, size.columns), timeout_s=_DAY_S)
    loop = asyncio.get_running_loop()
    typed: asyncio.Queue[bytes] = asyncio.Queue()
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()

    def resized() -> None:
        now = os.get_terminal_size(sys.stdout.fileno())
        changes.append(asyncio.ensure_future(process.resize(now.lines, now.columns)))

    changes: list[asyncio.Future[None]] = []
    with _raw(keyboard):
        loop.add_reader(keyboard, lambda: typed.put_nowait(os.read(keyboard, 4096)))
        loop.add_signal_handler(signal.SIGWINCH, resized)
        feeding = asyncio.ensure_future(_feed(process, typed))
        try:
            async for _, data in process.output():
                await asyncio.to_thread(_write, screen, data)
        finally:
            feeding.cancel()
            loop.remove_signal_handler(signal.SIGWINCH)
            loop.remove_reader(keyboard)
    return (await process.wait()).exit_code


async def _feed(process: Process, typed: asyncio.Queue[bytes]) -> None:
    while data := await typed.get():
        try:
            await process.write(data)
        except BrokenPipeError:
            return
    await process.end_input()


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextmanager
def _raw(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def list_images(*, as_json: bool) -> None:
    """Print the images there are, the last used first."""
    images = Images()
    found = images.all()
    if as_json:
        rows = [{**asdict(image), "root": str(image.root), "names": images.names(image)} for image in found]
        print(json.dumps(rows, indent=1))
        return
    table = Table("name", "id", "adds", "used", "made from", box=None, pad_edge=False)
    for image in found:
        names = " ".join(images.names(image)) or "-"
        table.add_row(*map(escape, (names, image.id, _size(image.own_bytes), _ago(image.used), image.source)))
    console = Console()
    console.print(table)
    total = sum(image.own_bytes for image in found)
    print(f"{len(found)} images, {_size(total)} of at most {_size(images.budget_bytes)} in {images.directory}")


def build_image(source: str, *, name: str, network: bool) -> None:
    """Make an image, or the images of all tasks below a directory. Raises `UserError`."""
    images = Images()
    try:
        dockerfiles = _dockerfiles_of_tasks(Path(source))
        if dockerfiles and name:
            raise UserError(f"{source} is a directory of tasks, which need no --name")
        made = {image.id: image for path in dockerfiles if (image := _image_of_task(images, path, network))}
        if dockerfiles:
            print(f"{len(dockerfiles)} tasks, {len(made)} images; the others start from the machine's own system")
            return
        image = make_image(images, source, network=network)
        if name:
            images.name(image, name)
        print(f"{image.id} {name or '(no name)'}: {image.source}, adds {_size(image.own_bytes)}, in {image.root}")
    finally:
        images.close()


def remove_image(name: str) -> None:
    """Remove an image. Raises `UserError` if there is none, or it is needed."""
    image = Images().remove(name)
    print(f"removed {image.id}, which added {_size(image.own_bytes)}")


def _dockerfiles_of_tasks(path: Path) -> list[Path]:
    if not path.is_dir() or (path / "Dockerfile").exists():
        return []
    return [task.parent / "environment" / "Dockerfile" for task in sorted(path.rglob("task.toml"))]


def _image_of_task(images: Images, dockerfile: Path, network: bool) -> Image | None:
    print(f"{dockerfile}", file=sys.stderr)
    return image_below(images, read_dockerfile(dockerfile), network=network)


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.1f} MiB"


def _ago(then: float) -> str:
    seconds = max(0.0, time.time() - then)
    for name, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {name} ago"
    return "just now"

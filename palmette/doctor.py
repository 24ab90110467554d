"""``palmette doctor``: what this machine can do, tried rather than looked up, and what to do about the rest."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from palmette.envs.toolchain import python_toolchain
from palmette.envs.web.judge.browser import find_browser
from palmette.errors import UserError
from palmette.model.load import resolve_model
from palmette.sandbox.api import SandboxError, Spec
from palmette.sandbox.hosts import open_host, probe, probe_others
from palmette.sandbox.images import Images


class Health(StrEnum):
    """How a part stands: `missing` parts stop the demo, `weak` ones only what `Finding.effect` says."""

    OK = "ok"
    WEAK = "weak"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at: what was found, what will not work because of it, and what to do."""

    part: str
    health: Health
    found: str
    effect: str = ""
    remedy: str = ""


def examine(*, as_json: bool) -> int:
    """Print a table (or JSON) of findings; return 0 if the demo can run and 2 if not."""
    findings = [finding for check in CHECKS for finding in check()]
    stopped = [finding.part for finding in findings if finding.health is Health.MISSING]
    if as_json:
        print(json.dumps({"demo_can_run": not stopped, "findings": [asdict(each) for each in findings]}, indent=1))
        return 2 if stopped else 0
    _print(findings)
    weak = [finding.part for finding in findings if finding.health is Health.WEAK]
    verdict = f"cannot run here: {', '.join(stopped)}" if stopped else "can run here"
    print(f"\nThe demo {verdict}." + (f" Weak: {', '.join(weak)}." if weak else ""))
    return 2 if stopped else 0


def check_machine() -> list[Finding]:
    """Look at Python, cores, memory, disk and limits."""
    import psutil

    cores = len(os.sched_getaffinity(0))
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return [
        Finding(part="python", health=Health.OK, found=f"{platform.python_version()} on {platform.platform()}"),
        _at_least("cores", cores, 2, 1, f"{cores}", "slow: rollouts and training share one core"),
        _at_least(
            "memory",
            memory.available / 2**30,
            4,
            2,
            f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free",
            "the demo needs up to 4 GB",
            "close other programs, or lower --set concurrency",
        ),
        _at_least(
            "disk",
            disk.free / 2**30,
            5,
            1,
            f"{disk.free / 2**30:.1f} GiB free in {Path.cwd()}",
            "runs keep checkpoints and trajectories",
            "free some space, or choose another place with --runs",
        ),
        _at_least(
            "open files",
            files if files != resource.RLIM_INFINITY else 2**20,
            1024,
            256,
            "no limit" if files == resource.RLIM_INFINITY else f"at most {files:,}",
            "many rollouts at once run out of file descriptors",
            "ulimit -n 4096",
        ),
    ]


def check_loopback() -> list[Finding]:
    """Try to listen on the loopback interface, as the gateway does."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            found = f"listens on {server.getsockname()[0]}"
        return [Finding(part="loopback", health=Health.OK, found=found)]
    except OSError as error:
        return [
            Finding(
                part="loopback",
                health=Health.MISSING,
                found=str(error),
                effect="agents reach their model over 127.0.0.1",
                remedy="bring the loopback interface up: ip link set lo up",
            )
        ]


def check_programs() -> list[Finding]:
    """Look for the programs that are called."""
    browser = find_browser() or None
    return [
        _program("git", shutil.which("git"), Health.MISSING, "swe tasks are git repositories", "apt-get install git"),
        _program(
            "chromium",
            browser,
            Health.WEAK,
            "tasks of the domain web cannot be judged, and the demo has some",
            "apt-get install chromium-headless-shell",
        ),
    ]


def check_torch() -> list[Finding]:
    """Import torch, and say which device it finds."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return [_broken("torch", str(error))]
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(each) for each in range(torch.cuda.device_count()))
        device = f"CUDA {torch.version.cuda}: {names}"
    else:
        device = f"CPU, {torch.get_num_threads()} threads"
    return [Finding(part="torch", health=Health.OK, found=f"{torch.__version__}, {device}")]


def check_packages() -> list[Finding]:
    """Look at the versions of the libraries that matter most."""
    findings = []
    for name in ("transformers", "pyarrow", "uvicorn"):
        try:
            findings.append(Finding(part=name, health=Health.OK, found=importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(_broken(name, "not installed"))
    return findings


def check_model() -> list[Finding]:
    """Look for the embedded model."""
    try:
        path = resolve_model("palmette:base")
        size = sum(each.stat().st_size for each in path.iterdir() if each.is_file())
    except UserError as error:
        return [
            Finding(
                part="base model",
                health=Health.MISSING,
                found=str(error),
                effect="the demo starts from it",
                remedy="palmette run recipes/base.toml, or --set model.path=DIRECTORY",
            )
        ]
    return [Finding(part="base model", health=Health.OK, found=f"{size / 1e6:.1f} MB in {path}")]


def check_sandboxes() -> list[Finding]:
    """Try what sandboxes lean on, and run Python and pytest in one."""
    findings = []
    for part, works, detail in probe():
        absent = Health.MISSING if part in ("C compiler", "namespace sandbox") else Health.WEAK
        effect = "tasks cannot run behind walls" if absent is Health.MISSING else "sandboxes work, with weaker walls"
        remedy = "--set sandbox=fake, for trusted tasks only" if absent is Health.MISSING else ""
        if works:
            findings.append(Finding(part=part, health=Health.OK, found=detail))
        else:
            findings.append(Finding(part=part, health=absent, found=detail, effect=effect, remedy=remedy))
    if all(finding.health is not Health.MISSING for finding in findings):
        findings.append(asyncio.run(_try_pytest()))
    return findings


def check_back_ends() -> list[Finding]:
    """Start a sandbox on every other host, and look at what images there are and can be made."""
    findings = []
    for name, works, detail in probe_others():
        found = f"works; weaker: {detail}" if works else f"not here, and not needed: {detail}"
        findings.append(Finding(part=f"host {name}", health=Health.OK, found=found))
    images = Images().all()
    found = f"{len(images)} images; made from directories and tars"
    found += ", with RUN and debootstrap" if os.geteuid() == 0 and shutil.which("debootstrap") else ""
    if os.geteuid():
        found += "; without root files keep no owners but this user"
    return [*findings, Finding(part="images", health=Health.OK, found=found)]


async def _try_pytest() -> Finding:
    host = open_host("namespace")
    try:
        tools = python_toolchain()
        sandbox = await host.start(Spec(owner="doctor", env=tools.env, readonly=tools.readonly))
        result = await sandbox.exec(["python3", "-m", "pytest", "--version"], timeout_s=30.0)
    except (SandboxError, UserError) as error:
        code, said = 1, str(error)
    else:
        code = result.exit_code
        said = " ".join((result.stdout + result.stderr).decode(errors="replace").split())[-200:]
    finally:
        await host.close()
    if code == 0:
        return Finding(part="pytest inside", health=Health.OK, found=said)
    return Finding(
        part="pytest inside",
        health=Health.MISSING,
        found=f"exit {code}: {said}",
        effect="swe tasks cannot be graded",
        remedy="use a Python below /usr or /usr/local, or one that other users may read",
    )


CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    check_machine,
    check_loopback,
    check_programs,
    check_torch,
    check_packages,
    check_model,
    check_sandboxes,
    check_back_ends,
)


def _at_least(part: str, value: float, good: float, least: float, found: str, effect: str, remedy: str = "") -> Finding:
    """Return `ok` from `good` on, `missing` below `least`, `weak` between."""
    if value >= good:
        return Finding(part=part, health=Health.OK, found=found)
    health = Health.WEAK if value >= least else Health.MISSING
    return Finding(part=part, health=health, found=found, effect=effect, remedy=remedy)


def _program(part: str, path: str | None, absent: Health, effect: str, remedy: str) -> Finding:
    if path is None:
        return Finding(part=part, health=absent, found="not found", effect=effect, remedy=remedy)
    return Finding(part=part, health=Health.OK, found=f"{path}{_version(path)}")


def _version(path: str) -> str:
    """Return the first number with a dot that ``--version`` prints, with a blank before it."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    numbers = [word.strip("(),;") for word in answer.split() if word[:1].isdigit() and "." in word]
    return f" {numbers[0]}" if numbers else ""


def _broken(part: str, found: str) -> Finding:
    return Finding(part=part, health=Health.MISSING, found=found, effect="nothing trains", remedy="make setup")


def _print(findings: list[Finding]) -> None:
    colours = {Health.OK: "green", Health.WEAK: "yellow", Health.MISSING: "red"}
    console = Console(soft_wrap=True, highlight=False)
    for each in findings:
        health = f"[{colours[each.health]}]{each.health:<8}[/]"
        console.print(f"{health} {each.part:<18} {escape(each.found)}")
        for line in filter(None, (each.effect, each.remedy and f"try: {each.remedy}")):
            console.print(f"{'':<8} {'':<18} [dim]{escape(line)}[/]")

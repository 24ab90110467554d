"""What decides about generated tasks, in a clean sandbox with what the agent left: ``python3 -I -S /tests/judge.py``.

It takes /tests/checks.json into its memory and empties /tests before anything of the agent's runs. It never imports or
executes that itself: programs run as its children, with a plain environment, limits and a time, their output is
compared here, and every process that they leave behind is ended before the reward is written. This file stands alone
(the standard library, any Python from 3.10), because it is copied into tasks.

checks.json: {"workdir": "/app", "goals": [{"name": ..., "checks": [{"kind": ..., ...}]}]}; the kinds are in KINDS.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile

TESTS, REWARD = "/tests", "/logs/verifier/reward.txt"
_MOST_BYTES = 8 << 20  # of one file or output
_CHILD_MEMORY, _CHILD_CPU_S = 384 << 20, 20
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_root = "/app"


class Missed(Exception):
    """A check does not hold; the text says why, for whoever reads the log."""


def main() -> None:
    """Judge, end what still runs, write the reward."""
    global _root
    with open(os.path.join(TESTS, "checks.json"), encoding="utf-8") as file:
        plan = json.load(file)
    _shield()
    _root = os.path.realpath(plan.get("workdir", "/app"))
    missed = _missed(plan["goals"], time.monotonic() + plan.get("limit_s", 45.0))
    if not _end_children():
        missed[0] = "its processes would not end"
    for number, goal in enumerate(plan["goals"], 1):
        how = f"missed: {missed[number]}" if number in missed else "not decisive" if missed else "reached"
        sys.stdout.write(f"goal {number} {goal['name']}: {how}\n")
    _write_reward("0" if missed else "1")


def _missed(goals: list, ends: float) -> dict:
    """Return the number of the first goal that is missed -> why. Any failure over what the agent left is a miss."""
    missed: dict = {}
    signal.signal(signal.SIGALRM, _late)
    for runs in (False, True):  # everything is looked at before anything is run
        for number, goal in enumerate(goals, 1):
            for check in goal["checks"]:
                if (check["kind"] in ("run", "serve", "calls")) is not runs or missed:
                    continue  # one miss decides
                try:
                    signal.setitimer(signal.ITIMER_REAL, max(ends - time.monotonic(), 0.001))
                    KINDS[check["kind"]](check)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Exception as why:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    missed[number] = str(why) if isinstance(why, Missed) else f"{type(why).__name__}: {why}"
    return missed


def _late(*_: object) -> None:
    raise Missed("the time for judging is over")


def _shield() -> None:
    """Let no child read our memory, adopt what the children leave behind, and take the tests away."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) or prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    for name in os.listdir(TESTS):
        path = os.path.join(TESTS, name)
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)


def _write_reward(text: str) -> None:
    """Write the reward whatever has been put in its place."""
    folder = os.path.dirname(REWARD)
    for path in (os.path.dirname(folder), folder):
        if os.path.islink(path) or (os.path.exists(path) and not os.path.isdir(path)):
            os.unlink(path)
        os.makedirs(path, exist_ok=True)
        with contextlib.suppress(PermissionError):
            os.chmod(path, 0o755)
    if os.path.isdir(REWARD) and not os.path.islink(REWARD):
        shutil.rmtree(REWARD)
    elif os.path.lexists(REWARD):
        os.unlink(REWARD)
    with os.fdopen(os.open(REWARD, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "w") as file:
        file.write(text + "\n")


def _place(name: str) -> str:
    path = os.path.normpath(os.path.join(_root, name))
    parent = os.path.dirname(path)
    if os.path.realpath(parent) != parent:
        raise Missed(f"{name} is behind a symlink")
    return path


def _content(name: str) -> bytes:
    """Return a regular file that is reached through no symlink."""
    fd = os.open(_place(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Missed(f"{name} is no regular file")
        return _bounded(file, name)


def _bounded(file: io.BufferedIOBase, name: str) -> bytes:
    data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise Missed(f"{name} is larger than {_MOST_BYTES} bytes")
    return data


def _same(data: bytes, want: str, name: str) -> None:
    """Raise unless two texts agree; blank ends do not count."""
    if data.rstrip() != want.encode().rstrip():
        raise Missed(f"{name} holds {data[:60]!r}")


def _text(check: dict) -> None:
    data, match = _content(check["path"]), check.get("match", "exact")
    if match in ("exact", "ignore_case"):
        folded = match == "ignore_case"
        _same(data.lower() if folded else data, check["text"].lower() if folded else check["text"], check["path"])
    elif match == "number":
        if not abs(float(data) - float(check["text"])) <= check["tolerance"]:
            raise Missed(f"{check['path']} holds {data[:60]!r}")
    elif not re.fullmatch(check["text"], data.decode().strip()):
        raise Missed(f"{check['path']} holds {data[:60]!r}")


def _bytes(check: dict) -> None:
    if _content(check["path"]).hex() != check["hex"]:
        raise Missed(f"{check['path']} holds other bytes")


def _lines(check: dict) -> None:
    if sorted(filter(None, _content(check["path"]).decode().splitlines())) != sorted(check["lines"]):
        raise Missed(f"{check['path']} holds other lines")


def _json(check: dict) -> None:
    if json.loads(_content(check["path"])) != check["value"]:
        raise Missed(f"{check['path']} holds another value")


def _absent(check: dict) -> None:
    if os.path.lexists(_place(check["path"])):
        raise Missed(f"{check['path']} is still there")


def _mode(check: dict) -> None:
    mode = stat.S_IMODE(os.lstat(_place(check["path"])).st_mode)
    if f"{mode:o}" != check["mode"]:
        raise Missed(f"{check['path']} has mode {mode:o}")


def _link(check: dict) -> None:
    place = _place(check["path"])
    if not os.path.islink(place):
        raise Missed(f"{check['path']} is no symlink")
    target = os.path.normpath(os.path.join(os.path.dirname(place), os.readlink(place)))
    if target != os.path.normpath(os.path.join(_root, check["target"])):
        raise Missed(f"{check['path']} leads to {target}")


def _tree(check: dict) -> None:
    """A directory holds exactly these files, empty directories left aside."""
    top, found = _place(check["path"]), set()
    for folder, _, names in os.walk(top):
        found |= {os.path.relpath(os.path.join(folder, name), top) for name in names}
    if found != set(check["files"]):
        raise Missed(f"{check['path']} holds {sorted(found)[:8]}")
    for name, text in check["files"].items():
        _same(_content(os.path.join(check["path"], name)), text, name)


def _archive(check: dict) -> None:
    """A tar (of any compression) or zip holds exactly these files."""
    data, found = io.BytesIO(_content(check["path"])), {}
    if zipfile.is_zipfile(data):
        with zipfile.ZipFile(data) as pack:
            for info in pack.infolist():
                if not info.is_dir():
                    with pack.open(info) as file:
                        found[os.path.normpath(info.filename)] = _bounded(file, info.filename)  # type: ignore[arg-type]
    else:
        data.seek(0)
        with tarfile.open(fileobj=data) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file:
                    found[os.path.normpath(member.name)] = _bounded(file, member.name)  # type: ignore[arg-type]
    if set(found) != set(check["files"]):
        raise Missed(f"{check['path']} holds {sorted(found)[:8]}")
    for name, text in check["files"].items():
        _same(found[name], text, name)


def _run(check: dict) -> None:
    """A program ends well and prints this; `give` are files put there before, `then` are checks for after it."""
    for name, text in check.get("give", {}).items():
        place = _place(name)
        if os.path.lexists(place):
            os.unlink(place)
        with open(place, "w", encoding="utf-8") as file:
            file.write(text)
    code, output = _child(check["argv"], check.get("stdin", ""), check.get("timeout_s", 10.0))
    what = " ".join(check["argv"])[:60]
    if code != check.get("exit", 0):
        raise Missed(f"{what} exits {code}")
    if check.get("stdout") is not None:
        _same(output, check["stdout"], f"the output of {what}")
    for after in check.get("then", ()):
        KINDS[after["kind"]](after)


def _calls(check: dict) -> None:
    """Functions of a module return these values: {module, function, cases: [[arguments, result], ...] as literals}."""
    asked = json.dumps([check["module"], check["function"], [arguments for arguments, _ in check["cases"]]])
    _, output = _child([sys.executable or "python3", "-I", "-S", "-c", _CALL], asked, check.get("timeout_s", 10.0))
    told = output.decode("utf-8", "replace").splitlines()
    if len(told) != len(check["cases"]):
        raise Missed(f"{check['module']}.{check['function']} answered {len(told)} of {len(check['cases'])} calls")
    for line, (arguments, want) in zip(told, check["cases"], strict=True):
        try:
            got = ast.literal_eval(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise Missed(f"{check['function']}{arguments} gives no plain value") from None
        if got != ast.literal_eval(want):
            raise Missed(f"{check['function']}{arguments} gives {line[:60]}")


# Runs in a child: answers on a descriptor of its own, so that what the module prints is not taken for an answer.
_CALL = """
import ast, importlib, json, os, sys
out = os.fdopen(os.dup(1), "w"); os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
module, function, cases = json.load(sys.stdin)
sys.path.append(os.getcwd())
function = getattr(importlib.import_module(module), function)
for case in cases:
    try: line = repr(function(*ast.literal_eval(case)))
    except Exception as error: line = type(error).__name__ + "()"
    out.write(line.replace("\\n", " ") + "\\n"); out.flush()
"""


def _serve(check: dict) -> None:
    """A program makes a server answer on 127.0.0.1: {argv, port, asks: [{path, method, body, status, text}]}."""
    ends = time.monotonic() + check.get("timeout_s", 10.0)
    with tempfile.TemporaryFile() as sink:
        process = _start(check["argv"], sink)
        try:
            for ask in check["asks"]:
                status, body = _ask(check["port"], ask, ends, process)
                if status != ask.get("status", 200):
                    raise Missed(f"{ask['path']} is answered by {status}")
                if "text" in ask:
                    _same(body, ask["text"], ask["path"])
        finally:
            process.poll()
            if not _end_children():
                raise Missed("the server would not end")


def _ask(port: int, ask: dict, ends: float, process: subprocess.Popen) -> tuple:
    """Return (status, body) of an HTTP request, asked again until somebody listens, or nobody is left who could."""
    body = ask.get("body", "").encode()
    head = (
        f"{ask.get('method', 'GET')} {ask['path']} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    while True:
        left = ends - time.monotonic()
        if left <= 0 or (process.poll() is not None and not _children()):
            raise Missed(f"nothing answers on port {port}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=left) as line:
                line.sendall(head.encode() + body)
                data = b""
                while len(data) < _MOST_BYTES and time.monotonic() < ends and (part := line.recv(65536)):
                    data += part
        except (TimeoutError, ConnectionError):
            time.sleep(0.02)
            continue
        first, _, rest = data.partition(b"\r\n\r\n")
        words = first.split(None, 2)
        return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), rest


def _child(argv: list, given: str, timeout_s: float) -> tuple:
    """Return (exit code, what it printed) of a program and end all that it started; None for one out of time."""
    with tempfile.TemporaryFile() as sink, tempfile.TemporaryFile() as source:
        source.write(given.encode())
        source.seek(0)
        process = _start(argv, sink, source)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        if not _end_children():
            raise Missed("its processes would not end")
        sink.seek(0)
        return code, sink.read(_MOST_BYTES)


def _start(argv: list, sink: object, source: object = subprocess.DEVNULL) -> subprocess.Popen:
    path = os.pathsep.join(p for p in os.environ.get("PATH", os.defpath).split(os.pathsep) if not p.startswith(_root))
    env = {"PATH": path, "HOME": tempfile.gettempdir(), "LANG": "C.UTF-8", "TZ": "UTC"}
    env.update(GIT_CONFIG_NOSYSTEM="1", GIT_CONFIG_GLOBAL=os.devnull, PYTHONDONTWRITEBYTECODE="1")
    try:
        return subprocess.Popen(
            argv,
            cwd=_root,
            env=env,
            stdin=source,  # type: ignore[arg-type]
            stdout=sink,  # type: ignore[arg-type]
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_limit,
        )
    except OSError as error:
        raise Missed(f"{argv[0]}: {error.strerror}") from None


def _limit() -> None:
    for what, most in (
        (resource.RLIMIT_AS, _CHILD_MEMORY),
        (resource.RLIMIT_CPU, _CHILD_CPU_S),
        (resource.RLIMIT_FSIZE, _MOST_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _end_children() -> bool:
    """End every process that descends from us; a child's orphans become our own children."""
    ends = time.monotonic() + 5.0
    while True:
        ours = _children()
        if not ours:
            return True
        for pid in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > ends:
            return False
        time.sleep(0.001)


def _children() -> list:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found


KINDS = {
    "text": _text,
    "bytes": _bytes,
    "lines": _lines,
    "json": _json,
    "absent": _absent,
    "mode": _mode,
    "link": _link,
    "tree": _tree,
    "archive": _archive,
    "run": _run,
    "calls": _calls,
    "serve": _serve,
}

if __name__ == "__main__":
    main()

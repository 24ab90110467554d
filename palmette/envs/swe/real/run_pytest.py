"""Runs a project's tests with pytest and says test by test what came out: a program of its own, inside a sandbox.

It reads JSON objects, one a line: {"path": what goes in front of sys.path, "files": test files, "only": test ids or
null, "options": more for pytest, "trace": whether to say which functions each test calls, "values": whether to show
what the tests saw}; with "fork": seconds, a child answers in that time, and {"over": how it ended} follows; with "cpu":
seconds, it ends when it has worked for so long. It writes JSON lines: {"t": test, "o": outcome, "d": digest of all that
the test saw, "v": how many of those are plain values, "u": seconds it worked}, {"e": file, "m": why it cannot be
collected}, {"open": [places whose values cannot be compared]}, {"end": exit status, "u": seconds of work in all}.
Any Python from 3.8; the code under test runs in here too, so nothing that is written can be believed but for its
digests (see `judge_suite`).
"""

import sys

sys.path[:] = [entry for entry in sys.path if entry]

import contextlib  # noqa: E402  # nothing of the work directory's may be taken for a module of Python's
import hashlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402

OPAQUE = "?"
_MISUSED = 4  # what pytest ends with when it cannot begin


class Witness:
    """What the sealed tests show: digests and, if asked, short texts of the values, in order."""

    def __init__(self, values):
        self.keep = values
        self.opaque = set()
        self.begin()

    def begin(self):
        """Forget what was seen: another test starts."""
        self.digest, self.count, self.shown = hashlib.blake2b(digest_size=8), 0, []

    def see(self, place, value):
        """Take down a value and hand it on."""
        text = canonical(value)
        if text == OPAQUE:
            self.opaque.add(place)
        self.count += text not in (OPAQUE, "N") and not isinstance(value, bool)
        self._keep(place, text, value)
        return value

    def truth(self, place, value):
        """Take down whether something holds."""
        self._keep(place, f"B{bool(value):d}", bool(value))

    def _keep(self, place, text, value):
        self.digest.update((text + "\n").encode("utf-8", "surrogatepass"))
        if self.keep and len(self.shown) < 400:
            self.shown.append([place, text[:2000], _shown(value)])


def canonical(value):
    """Return a text that is the same for plain values that are equal, `OPAQUE` for everything else."""
    try:
        return _canonical(value, 0)
    except _Opaque:
        return OPAQUE


class _Opaque(Exception):
    pass


def _canonical(value, depth):
    if value is None:
        return "N"
    if isinstance(value, int):
        return "n" + int.__repr__(int(value))
    if isinstance(value, float):
        return f"n{float.__int__(value)}" if float.is_integer(value) else "f" + float.__repr__(value)
    if isinstance(value, str):
        return "s" + str.__repr__(value)
    if isinstance(value, (bytes, bytearray)):
        return "b" + bytes.__repr__(bytes(value))
    if depth > 30:
        raise _Opaque
    if isinstance(value, list):
        kind, inner = "l", [_canonical(each, depth + 1) for each in list.__iter__(value)]
    elif isinstance(value, tuple):
        kind, inner = "t", [_canonical(each, depth + 1) for each in tuple.__iter__(value)]
    elif isinstance(value, (set, frozenset)):
        every = set.__iter__(value) if isinstance(value, set) else frozenset.__iter__(value)
        kind, inner = "u", sorted(_canonical(each, depth + 1) for each in every)
    elif isinstance(value, dict):
        pairs = dict.items(value)
        kind, inner = "d", sorted(f"{_canonical(k, depth + 1)}:{_canonical(v, depth + 1)}" for k, v in pairs)
    else:
        raise _Opaque
    return f"{kind}[{','.join(inner)}]"


def _shown(value):
    try:
        return repr(value)[:300]
    except Exception as error:
        return type(error).__name__


class Plugin:
    """Tells what pytest finds, line by line."""

    def __init__(self, wanted, tell, witness):
        self.only = None if wanted["only"] is None else set(wanted["only"])
        self.tell, self.witness, self.trace = tell, witness, wanted["trace"]
        self.root = os.getcwd() + os.sep
        self.calls, self.outcome, self.message, self.given = set(), "passed", "", {}
        self.began, self.met = 0.0, {}

    def pytest_collectreport(self, report):
        """Name a file that cannot be collected, and why."""
        if report.failed:
            self.tell({"e": report.nodeid, "m": str(report.longrepr)[-1500:]})

    def pytest_collection_modifyitems(self, items):
        """Keep the tests that are wanted."""
        if self.only is not None:
            items[:] = [item for item in items if item.nodeid in self.only]

    def pytest_runtest_logstart(self):
        """Begin a test."""
        self.witness.begin()
        self.calls, self.outcome, self.message = set(), "passed", ""
        self.began, self.met = time.process_time(), {}
        if self.trace:
            sys.settrace(self._called)

    def pytest_runtest_setup(self, item):
        """Note the arguments of a parametrised test."""
        given = getattr(item, "callspec", None)
        self.given = (
            {name: _shown(value) for name, value in given.params.items() if canonical(value) != OPAQUE} if given else {}
        )

    def pytest_runtest_logreport(self, report):
        """Note how a phase of a test went."""
        if report.failed:
            self.outcome = "failed" if report.when == "call" else "error"
            crash = getattr(report.longrepr, "reprcrash", None)
            self.message = self.message or (crash.message if crash else str(report.longrepr))[-3000:]
        elif report.skipped and self.outcome == "passed":
            self.outcome = "xfailed" if hasattr(report, "wasxfail") else "skipped"

    def pytest_runtest_logfinish(self, nodeid):
        """Tell about a test."""
        sys.settrace(None)
        seen = self.witness
        told = {"t": nodeid, "o": self.outcome, "d": seen.digest.hexdigest(), "v": seen.count}
        told["u"] = round(time.process_time() - self.began, 4)
        if self.message:
            told["m"] = self.message
        if self.trace:
            told["c"] = sorted(self.calls)
        if seen.keep:
            told["s"], told["p"] = seen.shown, self.given
        self.tell(told)

    def pytest_internalerror(self, excrepr):
        """Tell about a failure of pytest itself."""
        self.tell({"e": "", "m": "INTERNALERROR " + str(excrepr)[-1500:]})

    def _called(self, frame, _event, _argument):
        code = frame.f_code
        if id(code) in self.met:  # most calls are of what was called before
            return
        self.met[id(code)] = code
        if code.co_filename.startswith(self.root):
            self.calls.add(f"{code.co_filename[len(self.root) :]}:{code.co_firstlineno}")


def main():
    """Answer what is asked for, line by line: here, or in a child of its own where it says "fork"."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogateescape")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)

    def tell(what):
        out.write(json.dumps(what) + "\n")
        out.flush()

    for line in sys.stdin.buffer:
        wanted = json.loads(line)
        if "warm" in wanted:
            warm(wanted)
        elif not wanted.get("fork"):
            run(wanted, tell)
        else:
            child = os.fork()
            if not child:
                os.setsid()
                _limited(wanted.get("cpu"))
                run(wanted, tell)
            tell({"over": _waited(child, wanted["fork"])})


def run(wanted, tell):
    """Run tests and end this process."""
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    _look_in(wanted["path"])
    os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, wanted["path"]))  # for programs that tests start
    said = os.memfd_create("said")
    os.dup2(said, 2)
    import builtins

    import pytest

    witness = Witness(wanted["values"])
    builtins.__dict__.update(__seen__=witness.see, __holds__=witness.truth)
    arguments = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "required_plugins=", "-o", "xfail_strict=0"]
    arguments += ["--continue-on-collection-errors", *wanted["options"], "--rootdir", os.getcwd(), *wanted["files"]]
    sys.argv = ["pytest"]
    status = pytest.main(arguments, plugins=[Plugin(wanted, tell, witness)])
    if status == _MISUSED:  # a conftest.py that cannot be imported is one
        sys.stderr.flush()
        tell({"e": "", "m": os.pread(said, 1 << 20, 0).decode("utf-8", "replace")[-3000:]})
    tell({"open": sorted(witness.opaque)})
    tell({"end": int(status), "u": round(time.process_time(), 3)})
    os._exit(0)


def warm(wanted):
    """Compile files ahead, so that children that find them unchanged need not; nothing of them is run here."""
    _look_in(wanted["path"])
    import importlib.machinery
    from pathlib import Path

    before = set(sys.modules)
    from _pytest.assertion import rewrite

    loaded = {name: sys.modules[name] for name in set(sys.modules) - before}
    if any(_inside(module) for module in loaded.values()):  # pytest itself, or what it needs, is what is tested
        for name in loaded:
            del sys.modules[name]
        return

    compiled, rewritten = {}, {}
    loaders = importlib.machinery.SourceFileLoader
    compiling, rewriting = loaders.get_code, vars(rewrite)["_rewrite_test"]

    def get_code(loader, name):
        data, code = compiled.get(loader.path, (None, None))
        return code if data is not None and _same(loader.path, data) else compiling(loader, name)

    def rewrite_test(path, config):
        data, found = rewritten.get(str(path), (None, None))
        return found if data is not None and _same(path, data) else rewriting(path, config)

    for owner, name, new in ((loaders, "get_code", get_code), (rewrite, "_rewrite_test", rewrite_test)):
        setattr(owner, name, new)
    for name in wanted["warm"]:
        path = os.path.abspath(name)
        try:
            with open(path, "rb") as file:
                data = file.read()
            compiled[path] = data, compile(data, path, "exec", dont_inherit=True)
            rewritten[path] = data, rewriting(Path(path), None)
        except (OSError, SyntaxError, ValueError, TypeError, AttributeError):
            continue  # another pytest, or a file that is not to be imported: the child does it as always


def _inside(module):
    return (getattr(module, "__file__", None) or "").startswith(os.getcwd() + os.sep)


def _same(path, data):
    with open(path, "rb") as file:
        return file.read() == data


def _look_in(path):
    wanted = [os.path.abspath(entry) for entry in path]
    sys.path[:] = wanted + [entry for entry in sys.path if entry not in wanted]


def _limited(cpu_s):
    """Let this process end when it has worked for so long: time of its own, which other work on the machine is not."""
    if cpu_s:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s) + 1, int(cpu_s) + 2))


def _waited(child, limit_s):
    """Return how a child ended; it is killed when its time is over."""
    ends = time.monotonic() + limit_s
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "spent" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU else status
        if time.monotonic() > ends:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "late"
        time.sleep(0.002)


if __name__ == "__main__":
    main()

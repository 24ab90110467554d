"""Requests a second and added latency of the gateway under load, beside what others use as a relay.

    python benchmarks/gateway.py --json gateway.json        # minutes; --quick for seconds
    python benchmarks/gateway.py --exact                    # the trees against what the engine saw, token for token

Agents (64, 512, 2,000) hold conversations of 4k to 64k tokens that grow turn by turn over HTTP, each asking again as
soon as it is answered; engine, relay and load are processes of their own on this machine. Relays, in turn:

- ``direct``: the engine itself, the ceiling of load generator and engine; no relay.
- ``fastapi``: a straightforward FastAPI + httpx relay (`benchmarks/gateway_relay.py`). It forwards text.
- ``fastapi_wide``: the same with no bound on its client's connections, which httpx bounds at 100.
- ``litellm``: the LiteLLM proxy, one worker. It forwards text, translates parameters, counts tokens and cost.
- ``palmette``: this gateway. It finds the conversation, renders and tokenises what is new, sends token ids to the
  engine, parses what was sampled, and records ids, log-probs and weight version in the session's tree.
- ``palmette_write``, ``palmette_fsync``: the same with its journal, written or synced before each answer.
- ``palmette_2``, ``palmette_4``...: the same with so many processes behind its port, beside the one with the engine.
- ``palmette_40ms``...: the same, refusing (429) whom it would have to keep waiting for longer; ``refused`` counts them.

``added`` is the time from a request's first byte to its answer's last, less the median of ``direct`` at a light load.
In a closed loop it is the length of the queue that the agents make themselves, so rows with ``offered`` ask at a steady
rate below what the closed loop reached. ``cpu_ms`` is the relay's processor time (user and system, all its processes) a
request while requests are counted. ``lost``: calls answered other than 200, or never. The peers are not installed
with palmette: ``--peers PYTHON`` names one that has them (``pip install 'litellm[proxy]' fastapi httpx mcp``).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from gateway_exact import compare

from palmette.chat.template import Renderer
from palmette.train.base.tokenizer import train_tokenizer

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "palmette-bench"
COLUMNS = (
    "relay",
    "sessions",
    "history_tokens",
    "offered",
    "rps",
    "added_p50_ms",
    "added_p99_ms",
    "lost",
    "refused",
    "peak_mb",
)
PATHS = {"palmette": "/s/{key}/v1/chat/completions"}
LITELLM = """model_list:
- model_name: m
  litellm_params: {model: openai/m, api_base: URL/v1, api_key: none}
litellm_settings: {telemetry: false, request_timeout: 600}
"""


def tokenizer() -> Path:
    """Return a directory with a byte-level BPE of 16,384 tokens, trained once on Python's own library."""
    directory = CACHE / "tokenizer"
    if not (directory / "tokenizer.json").exists():
        sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        texts = [source.read_text(errors="replace") for source in sources]
        train_tokenizer(texts, vocab_size=16_384, context_tokens=1 << 20).save_pretrained(str(directory))
    return directory


@contextmanager
def started(*command: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program with pipes for input and output, and end it with its children."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"} | variables
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.terminate()
        process.terminate()
        process.wait()


@contextmanager
def relay(
    name: str, url: str, model: Path, sessions: int, peers: str, trees: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str] | None, int, list[str]]]:
    """Start a relay before the engine at `url`; yield its process, its port and a key a session."""
    with ExitStack() as stack:
        if name.startswith("palmette"):
            extra = ["--trees", str(trees)] if trees else []
            sync = name.partition("_")[2]
            if sync.isdecimal():
                extra += ["--processes", sync]
            elif sync.endswith("ms"):
                extra += ["--max-delay-ms", sync.removesuffix("ms")]
            elif sync:
                extra += ["--journal", stack.enter_context(tempfile.TemporaryDirectory(dir=CACHE)), "--sync", sync]
            command = [sys.executable, str(HERE / "gateway_served.py"), "--model", str(model), "--upstream", url]
            process = stack.enter_context(started(*command, "--sessions", str(sessions), *extra))
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            yield process, told["port"], told["keys"]
            return
        keys = [f"sk-{number}" for number in range(sessions)]
        if name == "direct":
            yield None, int(url.rpartition(":")[2]), keys
            return
        port = _free_port()
        if name.startswith("fastapi"):
            command = [peers, str(HERE / "gateway_relay.py"), str(port), *name.split("_")[1:]]
        else:
            config = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "config.yaml"
            config.write_text(LITELLM.replace("URL", url))
            command = [str(Path(peers).with_name("litellm")), "--config", str(config), "--port", str(port)]
            command += ["--host", "127.0.0.1", "--num_workers", "1"]
        variables = {"UPSTREAM": url, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "CRITICAL"}
        variables["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # keys are not what is measured
        process = stack.enter_context(started(*command, **variables))
        threading.Thread(target=_drain, args=(process,), daemon=True).start()
        _await_port(port, process)
        yield process, port, keys


def measure(
    name: str, url: str, model: Path, given: argparse.Namespace, sessions: int, history: int, rate: float
) -> dict[str, Any]:
    """Return what one relay did under one load, and its peak memory."""
    chars = int(history * _chars_per_token(model))
    with relay(name, url, model, sessions, given.peers) as (process, port, keys):
        load = {
            "port": port,
            "path": PATHS.get(name.split("_")[0], "/v1/chat/completions"),
            "keys": keys,
            "history_chars": chars,
        }
        watched = {"relay": process.pid} if process is not None else {}
        load |= {"seconds": given.seconds, "warm_s": given.warm_s, "rate": rate, "watched": watched}
        with started(sys.executable, str(HERE / "gateway_load.py")) as loading, _peak_mb(process) as peak:
            seen = json.loads(loading.communicate(json.dumps(load))[0])
        seen["peak_mb"] = round(peak[0], 1)
        if name.startswith("palmette") and process is not None:
            seen |= json.loads(process.communicate()[0])
    return seen


def compete(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every relay under every load, `rounds` times in turn; return a row of medians each."""
    model, rows = tokenizer(), []
    with _engine(model, given.delay_ms) as url:
        floor = measure("direct", url, model, given, 8, 4096, rate=50.0)["p50_ms"]
        for sessions in given.sessions:
            for history in given.histories:
                seen: dict[str, list[dict[str, Any]]] = {name: [] for name in given.relays}
                for _ in range(given.rounds):
                    for name in given.relays:
                        seen[name].append(measure(name, url, model, given, sessions, history, rate=0.0))
                for name, runs in seen.items():
                    rows.append(_row(name, sessions, history, None, runs, floor))
                    _show(rows[-1])
                if "palmette" in given.relays:
                    for share in given.paced:
                        rate = share * statistics.median(run["rps"] for run in seen["palmette"])
                        run = measure("palmette", url, model, given, sessions, history, rate)
                        rows.append(_row("palmette", sessions, history, round(rate), [run], floor))
                        _show(rows[-1])
    return rows


def exact(given: argparse.Namespace) -> dict[str, Any]:
    """Run agents, then compare every tree with what the engine was given and emitted, token for token."""
    model = tokenizer()
    with tempfile.TemporaryDirectory() as scratch:
        record, trees = Path(scratch) / "engine", Path(scratch) / "trees"
        with ExitStack() as stack:
            url = stack.enter_context(_engine(model, 0.0, "--record", str(record)))
            gateway = relay("palmette", url, model, given.sessions[0], given.peers, trees)
            process, port, keys = stack.enter_context(gateway)
            load = {"port": port, "path": PATHS["palmette"], "keys": keys, "history_chars": 16_384}
            load |= {"seconds": given.seconds, "warm_s": given.warm_s, "rate": 0.0, "watched": {}}
            with started(sys.executable, str(HERE / "gateway_load.py")) as loading:
                seen = json.loads(loading.communicate(json.dumps(load))[0])
            assert process is not None
            process.communicate()
        return {"calls": seen["calls"], "lost": seen["lost"]} | compare(record, trees)


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[64, 512, 2000])
    parser.add_argument("--histories", type=int, nargs="+", default=[4096, 16384, 65536])
    parser.add_argument(
        "--relays",
        nargs="+",
        default=[
            "direct",
            "fastapi",
            "fastapi_wide",
            "litellm",
            "palmette",
            "palmette_40ms",
            "palmette_2",
            "palmette_fsync",
        ],
    )
    parser.add_argument("--peers", default=str(CACHE / "relays" / "bin" / "python"))
    parser.add_argument("--paced", type=float, nargs="*", default=[0.8, 0.6, 0.4], help="shares of the closed loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--warm-s", type=float, default=180.0, help="longest time for the first request of all agents")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="time the engine takes for an answer")
    parser.add_argument("--quick", action="store_true", help="one small load for a few seconds")
    parser.add_argument("--exact", action="store_true", help="compare trees with the engine's record instead")
    parser.add_argument("--json", type=Path, metavar="PATH")
    given = parser.parse_args()
    if given.quick:
        given.sessions, given.histories, given.rounds, given.seconds, given.paced = [64], [4096], 1, 3.0, [0.6]
    told: Any = exact(given) if given.exact else compete(given)
    if given.exact:
        print(json.dumps(told))
    if given.json:
        given.json.write_text(json.dumps(told, indent=1) + "\n")


def _row(
    name: str, sessions: int, history: int, offered: int | None, runs: list[dict[str, Any]], floor: float
) -> dict[str, Any]:
    middle = {key: statistics.median(run[key] for run in runs) for key in ("rps", "p50_ms", "p99_ms", "warm_s")}
    return {
        "relay": name,
        "sessions": sessions,
        "history_tokens": history,
        "offered": offered,
        "rps": round(middle["rps"], 1),
        "added_p50_ms": round(middle["p50_ms"] - floor, 1),
        "added_p99_ms": round(middle["p99_ms"] - floor, 1),
        "lost": sum(run["lost"] for run in runs),
        "refused": sum(run["refused"] for run in runs),
        "peak_mb": max(run["peak_mb"] for run in runs),
        "warm_s": round(middle["warm_s"], 1),
        "cpu_ms": round(statistics.median(run["cpu_ms"].get("relay", 0.0) for run in runs), 2),
        "loop_lag_ms": max((run["peak_lag_ms"] for run in runs if "peak_lag_ms" in run), default=None),
    }


def _show(row: dict[str, Any], told: list[bool] = []) -> None:  # noqa: B006
    columns = (*COLUMNS, "warm_s", "cpu_ms", "loop_lag_ms")
    if not told:
        print("  ".join(f"{name:>13}" for name in columns))
        told.append(True)
    print("  ".join(f"{'-' if row[name] is None else row[name]!s:>13}" for name in columns), flush=True)


@contextmanager
def _engine(model: Path, delay_ms: float, *more: str) -> Iterator[str]:
    command = [sys.executable, str(HERE / "gateway_engine.py"), "--model", str(model), "--delay-ms", str(delay_ms)]
    with started(*command, *more) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"


@contextmanager
def _peak_mb(process: subprocess.Popen[str] | None) -> Iterator[list[float]]:
    """Yield a list that holds the most memory (resident, MiB) that a process and its children have had together."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while process is not None and not over.wait(0.2):
            try:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                peak[0] = max(peak[0], sum(one.memory_info().rss for one in family) / 2**20)
            except psutil.NoSuchProcess:
                continue

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    yield peak
    over.set()
    watching.join()


def _chars_per_token(model: Path) -> float:
    text = Path(json.__file__).with_name("decoder.py").read_text()
    return len(text) / len(Renderer.from_dir(model).encode(text))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _await_port(port: int, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise SystemExit(f"a relay ended at start: {process.args}; --peers names a Python that has it")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"a relay does not listen: {process.args}")


def _drain(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for _ in process.stdout:
        pass


if __name__ == "__main__":
    main()

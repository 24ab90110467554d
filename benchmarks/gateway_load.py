"""The load of `benchmarks/gateway.py`, in a process of its own: many agents that each hold one conversation.

Every agent has a connection of its own, asks, reads the answer, appends it and a tool's result of some 250 tokens to
its conversation, and asks again: at once, or with ``--rate`` at a steady rate over all agents. Its first question
carries the whole history and is not counted. One that is told to come again later (429) does so when it was told to,
and is counted as refused. A call counts as lost when it is answered otherwise than 200, or never.
Reads one JSON object from standard input: {port, path, keys, history_chars, seconds, warm_s, rate, watched}; `watched`
names processes (by id) whose processor time, with that of their children, is told for the seconds that count.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import random
import sys
import time
from collections import Counter
from typing import Any

import msgspec
import psutil
import uvloop

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "bash",
            "description": "Run a command in the shell of the task's machine and return what it prints.",
            "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
        },
    }
]
RESULT_CHARS = 1000
TIMEOUT_S = 300.0


class _Choice(msgspec.Struct):
    message: msgspec.Raw


class _Answer(msgspec.Struct):
    choices: list[_Choice]


class _Call(msgspec.Struct):
    id: str


class _Message(msgspec.Struct):
    tool_calls: list[_Call] = []


_READ_ANSWER, _READ_MESSAGE = msgspec.json.Decoder(_Answer), msgspec.json.Decoder(_Message)


def texts() -> list[str]:
    """Return pieces of program text, `RESULT_CHARS` each."""
    text = inspect.getsource(random) + inspect.getsource(inspect) + inspect.getsource(asyncio.tasks)
    return [text[at : at + RESULT_CHARS] for at in range(0, len(text) - RESULT_CHARS, RESULT_CHARS)]


class Agent(asyncio.Protocol):
    """One conversation over one connection."""

    def __init__(self, number: int, load: Load) -> None:
        self._load = load
        self._random = random.Random(number)
        self._head = load.head(number)
        history: list[dict[str, Any]] = [{"role": "system", "content": f"You are agent {number}. Work in the shell."}]
        history += [{"role": "user", "content": "Mend the parser so that the tests pass."}]
        size = 0
        while size < load.history_chars:
            turn, result = len(history), self._random.choice(load.pieces)
            function = {"name": "bash", "arguments": json.dumps({"command": f"sed -n '{turn},{turn + 40}p' a.py"})}
            call = {"id": f"old{turn:05d}", "type": "function", "function": function}
            history.append({"role": "assistant", "content": "", "tool_calls": [call]})
            history.append({"role": "tool", "tool_call_id": call["id"], "content": result})
            size += len(result) + 120
        self._messages = b",".join(json.dumps(message).encode() for message in history)
        self._got = bytearray()
        self._need: int | None = None
        self._status = 0
        self._again_s = 0.0
        self._asked_s = 0.0
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def ask(self) -> None:
        """Send the conversation."""
        self._asked_s = time.perf_counter()
        body = b'{"model":"m","messages":[%b],"tools":%b,"max_tokens":512}' % (self._messages, self._load.tools)
        self.transport.writelines([self._head % len(body), body])

    def data_received(self, data: bytes) -> None:
        """Read the answer; ask again."""
        self._got += data
        if self._need is None:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._got[:end]).lower()
            self._status = int(head[9:12])
            told_again = head.find(b"retry-after:")
            self._again_s = float(head[told_again + 12 :].split(b"\r\n", 1)[0]) if told_again >= 0 else 0.0
            self._need = int(head[head.index(b"content-length:") + 15 :].split(b"\r\n", 1)[0])
            del self._got[: end + 4]
        if len(self._got) < self._need:
            return
        body, self._got, self._need = bytes(self._got), bytearray(), None
        took_s = time.perf_counter() - self._asked_s
        if self._status == 200:
            self._append(_READ_ANSWER.decode(body).choices[0].message)
        if self._status == 429:
            self._load.refused(self, self._again_s)
        else:
            self._load.answered(self, self._status, took_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that the relay hung up."""
        self._load.hung_up(self)

    def _append(self, answer: msgspec.Raw) -> None:
        calls = _READ_MESSAGE.decode(answer).tool_calls
        result = self._random.choice(self._load.pieces)
        results = [{"role": "tool", "tool_call_id": call.id, "content": result} for call in calls]
        told = [bytes(answer), *(json.dumps(one).encode() for one in results)]
        self._messages = b",".join((self._messages, *told))


class Load:
    """All agents, when they ask, and what they saw."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self.history_chars: int = given["history_chars"]
        self.tools = json.dumps(TOOLS).encode()
        self.pieces = texts()
        self._statuses: Counter[int] = Counter()
        self._took_s: list[float] = []
        self._unanswered: set[Agent] = set()
        self._counting = self._ended = False
        self._refused = 0
        self._warm = 0
        self._all_warm = asyncio.Event()
        self._every_s = len(given["keys"]) / given["rate"] if given["rate"] else 0.0
        self._due_s: dict[Agent, float] = {}

    def head(self, number: int) -> bytes:
        """Return the head of an agent's requests; its length is missing."""
        key = self._given["keys"][number]
        path = self._given["path"].replace("{key}", key)
        return (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
            "content-type: application/json\r\ncontent-length: %d\r\n\r\n"
        ).encode()

    async def run(self) -> dict[str, Any]:
        """Warm up, count for some seconds, and return what was seen."""
        loop = asyncio.get_running_loop()
        agents = [Agent(number, self) for number in range(len(self._given["keys"]))]
        for agent in agents:
            await loop.create_connection(lambda agent=agent: agent, "127.0.0.1", self._given["port"])
        began = time.perf_counter()
        for agent in agents:
            self._ask(agent)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_warm.wait(), self._given["warm_s"])
        warm_s = time.perf_counter() - began
        if self._every_s:  # let the agents fall out of step
            await asyncio.sleep(min(2 * self._every_s, 10.0))
        spent_s = {name: -_processor_s(pid) for name, pid in self._given["watched"].items()}
        self._counting, began = True, time.perf_counter()
        await asyncio.sleep(self._given["seconds"])
        self._counting, seconds = False, time.perf_counter() - began
        spent_s = {name: spent_s[name] + _processor_s(pid) for name, pid in self._given["watched"].items()}
        self._ended = True
        for _ in range(int(TIMEOUT_S * 10)):
            if not self._unanswered:
                break
            await asyncio.sleep(0.1)
        took_ms = sorted(1000 * took for took in self._took_s)
        lost = sum(count for status, count in self._statuses.items() if status != 200) + len(self._unanswered)
        return {
            "rps": len(took_ms) / seconds,
            "p50_ms": _quantile(took_ms, 0.5),
            "p99_ms": _quantile(took_ms, 0.99),
            "calls": sum(self._statuses.values()),
            "lost": lost,
            "refused": self._refused,
            "statuses": {str(status): count for status, count in self._statuses.items()},
            "warm_s": warm_s,
            "cpu_ms": {name: 1000 * spent / max(1, len(took_ms)) for name, spent in spent_s.items()},
        }

    def answered(self, agent: Agent, status: int, took_s: float) -> None:
        """Count an answer, and let the agent go on."""
        self._unanswered.discard(agent)
        self._statuses[status] += 1
        if self._counting and status == 200:
            self._took_s.append(took_s)
        loop = asyncio.get_running_loop()
        if agent not in self._due_s:
            self._warm += 1
            self._due_s[agent] = loop.time() + random.Random(self._warm).random() * self._every_s
            if self._warm == len(self._given["keys"]):
                self._all_warm.set()
        if self._ended:
            return
        self._due_s[agent] = max(self._due_s[agent] + self._every_s, loop.time() if not self._every_s else 0.0)
        loop.call_at(max(self._due_s[agent], loop.time()), self._ask, agent)

    def refused(self, agent: Agent, again_s: float) -> None:
        """Count a refusal, and let the agent ask the same again later, not all at the same moment."""
        self._unanswered.discard(agent)
        self._refused += self._counting
        loop = asyncio.get_running_loop()
        loop.call_later(again_s * (1 + random.random()), self._ask, agent)

    def hung_up(self, agent: Agent) -> None:
        """Count a connection that ended under a call."""
        if agent in self._unanswered:
            self._unanswered.discard(agent)
            self._statuses[0] += 1

    def _ask(self, agent: Agent) -> None:
        if not self._ended:
            self._unanswered.add(agent)
            agent.ask()


def _processor_s(pid: int) -> float:
    """Return the processor time of a process and its children so far."""
    process = psutil.Process(pid)
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def _quantile(values: list[float], share: float) -> float:
    return values[min(int(share * len(values)), len(values) - 1)] if values else float("nan")


if __name__ == "__main__":
    print(json.dumps(uvloop.run(Load(json.load(sys.stdin)).run())))

"""A task, on disk a Harbor task directory, and what a domain of tasks is.

    task.toml  instruction.md  environment/{Dockerfile,files/...}  tests/test.sh  solution/solve.sh

and, where the task has side services (`palmette.envs.services`), tools or a system prompt of its own,

    environment/services/NAME/serve.py  environment/tools.json  system.md

`tests/test.sh` enters the sandbox (at /tests) only after the agent has stopped, and writes one number to
/logs/verifier/reward.txt.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from palmette.chat.message import Tool

Split = Literal["train", "heldout"]
INTENTS = ("specification", "request", "colloquial")  # from everything said to hardly anything, the same verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Complexity:
    """How much work a task is, measured; None where it was not.

    `steps` and `tokens` are of the reference: its tool calls, and the words and marks in their arguments.
    `pass_rate` is that of the policy `rated_by`.
    """

    steps: int | None = None
    tokens: int | None = None
    pass_rate: float | None = None
    rated_by: str = ""


NO_COMPLEXITY = Complexity()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTool:
    """A tool that a task brings: a call of it is POST /tools/NAME at its service, with the arguments as JSON."""

    tool: Tool
    service: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as loaded from its directory."""

    name: str  # "org/name", unique in a set
    path: Path
    domain: str
    instruction: str
    workdir: str = "/app"
    agent_timeout_s: float = 120.0
    verifier_timeout_s: float = 60.0
    separate_verifier: bool = True  # grade the exported work directory in a clean sandbox
    tier: int = 1
    split: Split = "train"
    skills: tuple[str, ...] = ()
    intent: str = ""  # how it is phrased, one of INTENTS; "" where nobody knows
    template: str = ""  # what it was made from: the two splits share none where they are split by it
    source: str = ""  # where it comes from: a generator, a repository, a data set
    license: str = ""
    provenance: str = ""
    complexity: Complexity = NO_COMPLEXITY
    memory_mb: int = 0  # what its sandboxes have at least, the verifier's too; 0 is what every sandbox has
    storage_mb: int = 0
    pids: int = 0
    evidence: tuple[str, ...] = ()  # files that the verifier leaves beside its reward, for people to look at
    services: tuple[str, ...] = ()  # names of its side services, in order
    tools: tuple[ServiceTool, ...] = field(default=(), hash=False)  # beside those of the scaffold
    shell: bool = True  # False: the built-in loop offers neither bash nor edit
    user: str = ""  # the service that plays a user, to whom plain text goes
    system: str = ""  # what the built-in loop says first, instead of its own system prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One action of a reference solution: a call of a tool of the built-in scaffold, and what it answers.

    Example: ``Step(tool="bash", arguments={"command": "cat a.txt"}, observation="kavo")``. The tool may be one of the
    task's own, or "say" with the argument "text": plain words to the task's user, whose answer is the observation.
    """

    tool: str
    arguments: dict[str, Any]
    observation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A task before it is written to disk: everything the directory will hold, and the reference steps.

    The observations are predictions; `palmette tasks check` and the tests compare them with a real sandbox.
    """

    name: str
    domain: str
    instruction: str
    files: Mapping[str, str | bytes]  # path below the work directory -> content
    test_files: Mapping[str, str | bytes]  # path below /tests -> content; holds "test.sh"
    steps: tuple[Step, ...]  # ends with the tool "submit"
    tier: int
    split: Split
    skills: tuple[str, ...]
    dockerfile: str = "FROM scratch\nWORKDIR /app\nCOPY files/ /app/\n"
    git: bool = False  # the work directory is a git repository with its files committed
    provenance: str = "generated"
    metadata: dict[str, str] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)  # permission bits of files that are not plain ones
    histories: Mapping[str, str] = field(default_factory=dict)  # directory -> script that makes its git repository
    phrasings: Mapping[str, str] = field(default_factory=dict)  # level of INTENTS -> instruction
    intent: str = "request"
    template: str = ""  # the domain and the tier where it is empty
    source: str = "palmette"
    license: str = "Apache-2.0"
    agent_timeout_s: float = 120.0
    verifier_timeout_s: float = 60.0
    workdir: str = "/app"
    kept: Mapping[str, str] = field(default_factory=dict)  # path in the task's directory -> text nobody is shown
    solution: str = ""  # solve.sh as it is, where the reference is not a list of steps
    memory_mb: int = 0  # see `Task`
    storage_mb: int = 0
    pids: int = 0
    evidence: tuple[str, ...] = ()
    services: Mapping[str, Mapping[str, str | bytes]] = field(default_factory=dict)  # name -> files, with serve.py
    tools: tuple[ServiceTool, ...] = ()
    shell: bool = True
    user: str = ""
    system: str = ""


class Domain(Protocol):
    """A source of unlimited drafts of one domain."""

    name: str
    tiers: tuple[int, ...]

    def draft(self, rng: random.Random, *, tier: int, split: Split, name: str) -> Draft:
        """Return a new task; the two splits share no names of files, values or symbols."""
        ...

"""tau2-bench as its authors wrote it: the data base, tools and policy of a domain run in a side service, from a clone.

A row becomes a dialogue: the agent has the domain's tools and policy, the caller is played in the service, and the
verdict is tau2's own: digests of the data bases against those that the gold actions leave, assertions, what the caller
must be told, and actions where the row asks for them. What a row has a model judge (NL_ASSERTION) is not judged;
`communicate_info` stands in. The clone's code runs in sandboxes only, also on import, where every row is tried.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from palmette.chat.message import Tool
from palmette.envs import clones, logged
from palmette.envs.api import Draft, ServiceTool, Step
from palmette.envs.importers.apart import apart
from palmette.envs.importers.rows import Row, read_rows
from palmette.envs.importers.tau2 import from_tau2, row_key
from palmette.envs.importers.tau2_service.customer import Customer
from palmette.envs.importers.tau2_service.settle import fault
from palmette.envs.locked import Lock, Wanted, named, resolve, versions
from palmette.envs.prepare import service_tools
from palmette.errors import UserError
from palmette.sandbox.api import Spec
from palmette.sandbox.hosts import open_host
from palmette.sandbox.image_build import packed

SERVICE = "desk"
_HERE = Path(__file__).parent / "tau2_service"
_TALK = Path(__file__).parents[1] / "general" / "talk"
_CODE = ("desk", "customer", "world")
_NEEDED = ("addict", "deepdiff", "docstring-parser", "loguru", "pydantic", "python-dotenv", "pyyaml", "toml")
_CHECK = "#!/bin/sh\nexec python3 -I -S /tests/settle.py\n"
_BRIEF = (
    "You are a customer service agent. What you write goes to the customer; use the tools for the rest, follow the "
    "policy, and submit when the customer has taken leave.\n\n<policy>\n{policy}\n</policy>\n"
)
_TRY_S = 900.0
_ANSWERS = {"task", "tasks", "audio", "voice"}  # words in the names of files that the domain does not run on
_JUDGED = ("DB", "ENV_ASSERTION", "COMMUNICATE", "ACTION")


def tau2(clone: Path | None) -> Callable[[Row], Draft]:
    """Return the importer; `clone` is a clone of tau2-bench, or None for planning tasks that run nothing of it.

    Raises `UserError` for a directory that is no such clone.
    """
    if clone is None:
        return from_tau2
    if not (clone / "src" / "tau2" / "domains").is_dir():
        raise UserError(f"{clone} is no clone of tau2-bench: src/tau2/domains is missing")
    return partial(_from_row, clone=clone)


def _from_row(row: Row, *, clone: Path) -> Draft:
    key, goal = row_key(row), _goal(row)
    domain = row.path.parent.name
    tried = _tried(row.path, clone)
    if "error" in tried:
        raise row.refuse(tried["error"])
    mine = tried["rows"][row.number]
    if "error" in mine:
        raise row.refuse(f"tau2's own code refuses it: {mine['error']}"[:300])
    if goal.pop("bases"):
        goal |= {name: mine["end"][name] for name in ("db", "user_db")}
    steps = tuple(
        Step(tool=tool, arguments=arguments, observation=told)
        for (tool, arguments), told in zip(_steps(row), mine["told"], strict=True)
    )
    log = [
        {"say": s.arguments["text"]} if s.tool == "say" else {"tool": s.tool, "arguments": s.arguments} for s in steps
    ]
    if why := fault(goal, mine["end"], log):
        raise row.refuse(f"its own gold actions do not reach its goal: {why}")
    scenario = _scenario(row)
    live = {"backend": "world", "customer": scenario, "state": {"domain": domain, "row": _shown(row)}}
    judged = row.table("evaluation_criteria").get("nl_assertions") or []
    return Draft(
        name=f"tau2/{domain}-{_slug(key)}",
        domain="general",
        instruction=Customer(scenario).opening or row.text("ticket", "Hello."),
        system=_BRIEF.format(policy=tried["policy"].strip()),
        files={".keep": ""},
        services={SERVICE: _service(clone, domain) | {"plan.json": _json(live)}},
        tools=tuple(_tool(schema) for schema in tried["tools"]),
        shell=False,
        user=SERVICE,
        test_files={
            "test.sh": _CHECK,
            "settle.py": _text(_HERE / "settle.py"),
            "logged.py": _text(Path(logged.__file__)),
            "goal.json": _json(goal),
        },
        steps=(*steps, Step(tool="submit", arguments={}, observation="submitted")),
        tier=min(6, 1 + len(steps) // 3),
        split="train",
        skills=("dialogue", domain),
        agent_timeout_s=900.0,
        provenance=f"tau2-bench, imported from {row.path.name}:{row.number}; its code and data run from a clone",
        intent="",
        template=f"tau2/{domain}",
        source=f"tau2/{domain}",
        license="MIT",
        metadata={"tau2_id": key, "reward_basis": " ".join(_basis(row)), "not_judged": str(len(judged))},
        kept={"source.json": json.dumps(row.data, indent=1, ensure_ascii=False) + "\n"},
    )


def _basis(row: Row) -> list[str]:
    return [str(each) for each in row.table("evaluation_criteria").get("reward_basis") or ("DB", "COMMUNICATE")]


def _goal(row: Row) -> dict[str, Any]:
    """Return what `settle.fault` compares with, but for the digests. Raises `RowRefused`."""
    criteria, basis = row.table("evaluation_criteria"), _basis(row)
    if not criteria:
        raise row.refuse("has no evaluation_criteria: whatever is done would be right")
    if not set(basis) & set(_JUDGED):
        raise row.refuse(f"is judged by a model alone ({', '.join(basis)})")
    if row.table("initial_state").get("message_history"):
        raise row.refuse("goes on from an earlier conversation (message_history), which cannot be offered")
    actions = criteria.get("actions") or []
    if not all(isinstance(a, dict) and isinstance(a.get("arguments"), dict) and a.get("name") for a in actions):
        raise row.refuse("every action needs a name and an object of arguments")
    return {
        "service": SERVICE,
        "bases": "DB" in basis,
        "assertions": "ENV_ASSERTION" in basis,
        "told": [str(t) for t in criteria.get("communicate_info") or []] if set(basis) - {"DB", "ACTION"} else [],
        "actions": [{"requestor": "assistant", **a} for a in actions] if "ACTION" in basis else [],
    }


def _steps(row: Row) -> list[tuple[str, dict[str, Any]]]:
    """Return the gold actions, those of the caller as what they are asked for, and what must be told at the end."""
    criteria, steps = row.table("evaluation_criteria"), []
    for action in criteria.get("actions") or []:
        if action.get("requestor", "assistant") == "assistant":
            steps.append((action["name"], action["arguments"]))
        else:
            values = " ".join(json.dumps(value) for value in action["arguments"].values())
            steps.append(("say", {"text": f"Please {action['name'].replace('_', ' ')} {values}".strip() + "."}))
    told = [str(text) for text in criteria.get("communicate_info") or []]
    return [*steps, ("say", {"text": "; ".join(["That is done", *told]) + "."})]


def _scenario(row: Row) -> Any:
    return row.table("user_scenario").get("instructions") or ""


def _shown(row: Row) -> dict[str, Any]:
    """Return what the service is given of a row: not the gold actions."""
    criteria = {"env_assertions": row.table("evaluation_criteria").get("env_assertions")}
    kept = ("id", "user_scenario", "initial_state", "user_tools")
    return {k: row.data[k] for k in kept if k in row.data} | {"evaluation_criteria": criteria}


@lru_cache(maxsize=8)
def _tried(path: Path, clone: Path) -> dict[str, Any]:
    """Return policy, tools, and by row number what the gold actions of each row come to; or what is the matter."""
    domain = path.parent.name
    if not (clone / "src" / "tau2" / "domains" / domain / "environment.py").is_file():
        return {"error": f"{clone} has no domain '{domain}', which the file's directory must be named after"}
    asked: dict[int, dict[str, Any]] = {}
    for row in read_rows(path):
        try:
            if isinstance(row, Row) and _goal(row):
                asked[row.number] = {"row": _shown(row), "scenario": _scenario(row), "steps": _steps(row)}
        except UserError:
            continue  # it is refused when its turn comes
    rows = {"rows.json": _json({"domain": domain, "rows": list(asked.values())})}
    try:
        probe = _service(clone, domain) | rows | {"probe.py": _text(_HERE / "probe.py")}
        told = apart(lambda: _probed(probe, domain))
    except UserError as error:  # remembered, so that every row says it at once
        return {"error": str(error)}
    return {**told, "rows": dict(zip(asked, told["rows"], strict=True))}


async def _probed(files: Mapping[str, str], domain: str) -> dict[str, Any]:
    folder, host = Path(tempfile.mkdtemp(prefix="palmette-tau2-")), open_host("namespace")
    try:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        tools = service_tools(folder)
        spec = Spec(owner="import/tau2", workdir="/service", env=tools.env, readonly=tools.readonly, ttl_s=_TRY_S)
        sandbox = await host.start(spec)
        try:
            await sandbox.upload(packed(folder), "/service")
            done = await sandbox.exec("python3 -S probe.py > told.json", timeout_s=_TRY_S)
            if done.exit_code:
                said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
                raise UserError(f"tau2's domain {domain} does not run: {said or done.status}"[:400])
            return json.loads(await sandbox.read("told.json"))
        finally:
            await sandbox.close()
    finally:
        await host.close()
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=8)
def _service(clone: Path, domain: str) -> dict[str, str]:
    """Return the files of the service but for its plan: code of ours, what to install, and which clone."""
    texts = {f"{name}.py": _text(_HERE / f"{name}.py") for name in _CODE}
    note = clones.keep(_files(clone, domain), of="tau2-bench")
    return texts | {"serve.py": _text(_TALK / "serve.py"), "python.json": _lock(clone).text(), clones.NOTE: note}


def _files(clone: Path, domain: str) -> dict[str, Path]:
    """Return the files of a clone that a domain runs on; none that holds the answers to its tasks."""
    code = clone / "src" / "tau2"
    found = [*code.glob("*.py"), *(code / "domains").glob("*.py")]
    for part in ("data_model", "environment", "utils", "knowledge", f"domains/{domain}"):
        found += [path for path in (code / part).rglob("*.py") if "tasks" not in path.relative_to(code).parts]
    data = clone / "data" / "tau2"
    base = data / "domains" / domain
    told = [path for kind in ("*.json", "*.md", "*.toml") for path in base.rglob(kind)]
    found += [path for path in told if not _ANSWERS & set(re.split(r"[_./]", str(path.relative_to(base))))]
    found += (data / "user_simulator").glob("*.md")
    return {str(path.relative_to(clone)): path for path in found if path.is_file() and not path.is_symlink()}


@cache
def _lock(clone: Path) -> Lock:
    """Return what the domains import, in versions that the clone allows, for a Python of this machine that it wants."""
    try:
        project = tomllib.loads((clone / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        asked = {named(str(Requirement(each))): each for each in project.get("dependencies", ())}
        allowed = SpecifierSet(project.get("requires-python", ""))
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"{clone / 'pyproject.toml'}: what tau2 needs cannot be read: {error}") from None
    python = next((each for each in versions() if f"{each}.99" in allowed), versions()[0])
    needed = [asked[name] for name in _NEEDED if name in asked] + ["pydantic"] * ("fastapi" in asked)
    pins = resolve(python, Wanted(needed=tuple(needed)), without="tau2")[0] if needed else ()
    return Lock(python=python, packages=pins)


def _tool(schema: Mapping[str, Any]) -> ServiceTool:
    tool = Tool(name=schema["name"], description=schema["description"], parameters=schema["parameters"])
    return ServiceTool(tool=tool, service=SERVICE)


def _slug(key: str) -> str:
    """Return a key as part of a name: short, and different for different keys."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", key).strip("-")
    return (
        plain if plain == key and len(plain) <= 60 else f"{plain[:60]}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    )


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n"


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")

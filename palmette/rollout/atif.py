"""Rollouts as ATIF documents (Harbor's agent trajectory interchange format) and back.

Written as ATIF-v1.7, which all readers of 1.7 and 1.8 take; read from any 1.x (facts: the models in the wheel of harbor
0.25.0, RFC 0001). An ATIF document is linear, a rollout's conversation is a tree: the path to the last answer is the
document itself, every other root-to-leaf path an embedded one in `subagent_trajectories`. A sampled turn carries its
token ids and log-probs in the first document that has it and is marked ``is_copied_context`` in the others, so nobody
trains on it twice. What ATIF has no name for stands in `extra`, and brings back the very tree and conversation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import palmette
from palmette.errors import UserError
from palmette.rollout.outcomes import Outcome
from palmette.rollout.record import from_metadata, to_metadata
from palmette.rollout.run import Rollout
from palmette.trajectory.tree import Tree

VERSION = "ATIF-v1.7"
_OURS = "palmette"  # our key in `extra`
_ENDED = ("outcome", "reward", "wall_s", "detail")
_FACTS = ("task", "domain", "tier", "group", "sample", "attempt", "scaffold", "intent", *_ENDED)


def to_atif(rollout: Rollout, *, model: str = "", scaffold: str = "", exact: bool = True) -> dict[str, Any]:
    """Return a rollout as one ATIF document. Raises `ValueError` for one in which nothing was said."""
    said = rollout.conversation
    if not said:
        raise ValueError(f"rollout {rollout.sample} of {rollout.task} has no message")
    session = f"{rollout.task}/{rollout.group}/{rollout.sample}"
    told: set[int] = set()
    paths = _paths(said)
    documents = [
        {
            "schema_version": VERSION,
            "session_id": session,
            "trajectory_id": f"{session}/{number}",
            "agent": {
                "name": scaffold or rollout.scaffold or "palmette",
                "version": palmette.__version__,
                "model_name": model or "unknown",
            },
            "steps": _steps(path, said, rollout.tree, told),
        }
        for number, path in enumerate(paths)
    ]
    main, *others = documents
    facts = to_metadata(rollout)
    main["extra"] = {_OURS: {name: facts[name] for name in _FACTS} | {"exact": exact}}
    main["final_metrics"] = {
        "total_completion_tokens": rollout.sampled_tokens,
        "total_steps": len(main["steps"]),
        "extra": {"reward": rollout.reward, "outcome": str(rollout.outcome)},
    }
    if others:
        main["subagent_trajectories"] = others
        main["notes"] = "subagent_trajectories are the other branches of this rollout's conversation"
    return main


def from_atif(document: Mapping[str, Any], *, source: str = "the document") -> tuple[Rollout, bool]:
    """Return the rollout that an ATIF document tells, and whether its tree is exact.

    It is exact when every answer of a model has its prompt's ids, its own ids and their log-probs. Otherwise the tree
    is empty: half a tree would be trained on as if it were whole. Raises `UserError` naming `source` and what is wrong.
    """
    schema = str(document.get("schema_version", ""))
    if not schema.startswith("ATIF-v1."):
        raise UserError(f"{source} is no ATIF document: its schema_version is '{schema}', not ATIF-v1.x")
    try:
        return _read(document, source)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source} is no ATIF document as {schema} has it: {type(error).__name__} {error}") from error


def _paths(said: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Return root-to-leaf paths of indices, the one to the last answer first, then in order of their ends."""
    parents = [message.get("parent", index - 1 if index else None) for index, message in enumerate(said)]
    inner = set(parents)
    ends = [index for index in range(len(said)) if index not in inner]
    answers = [index for index in ends if "leaf" in said[index]]
    last = answers[-1] if answers else ends[-1]
    ends.sort(key=lambda end: (end != last, end))
    paths = []
    for end in ends:
        path, at = [], end
        while at is not None:
            path.append(at)
            at = parents[at]
        paths.append(path[::-1])
    return paths


def _steps(path: Sequence[int], said: Sequence[Mapping[str, Any]], tree: Tree, told: set[int]) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    for index in path:
        message = said[index]
        last = steps[-1] if steps else None
        if message["role"] == "tool" and last is not None and last["source"] == "agent":
            _observe(last, message, index)
            continue
        step: dict[str, Any] = {"step_id": len(steps) + 1, "message": message["content"], "extra": {"index": index}}
        if message["role"] == "assistant":
            step |= _agent(message, len(steps) + 1, tree, copied=index in told)
            told.add(index)
        else:
            step["source"] = "system" if message["role"] == "system" else "user"
            if message["role"] == "tool":
                step["extra"]["role"] = "tool"
        if "turn" in message:
            step["extra"]["turn"] = message["turn"]
        steps.append(step)
    return steps


def _observe(step: dict[str, Any], message: Mapping[str, Any], index: int) -> None:
    results = step.setdefault("observation", {"results": []})["results"]
    calls = step.get("tool_calls", ())
    extra = {"index": index} | ({"turn": message["turn"]} if "turn" in message else {})
    result: dict[str, Any] = {"content": message["content"], "extra": extra}
    if len(results) < len(calls):  # results come in the order of their calls, as the gateway orders them
        result["source_call_id"] = calls[len(results)]["tool_call_id"]
    results.append(result)


def _agent(message: Mapping[str, Any], number: int, tree: Tree, *, copied: bool) -> dict[str, Any]:
    step: dict[str, Any] = {"source": "agent"}
    if calls := message.get("tool_calls"):
        step["tool_calls"] = [
            {"tool_call_id": f"call_{number}_{k}", "function_name": call["name"], "arguments": dict(call["arguments"])}
            for k, call in enumerate(calls)
        ]
    if copied:
        step["is_copied_context"] = True
    if "leaf" not in message:  # somebody else's words: few-shot turns, greetings, restarts
        return step | {"llm_call_count": 0}
    if message.get("reasoning"):
        step["reasoning_content"] = message["reasoning"]
    step["llm_call_count"] = 1
    step["metrics"] = _metrics(message, tree, brief=copied)
    return step


def _metrics(message: Mapping[str, Any], tree: Tree, *, brief: bool) -> dict[str, Any]:
    prompt, sampled = message.get("prompt_tokens"), message.get("completion_tokens")
    metrics: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": sampled}
    if brief or not prompt or message["leaf"] is None:
        return {name: value for name, value in metrics.items() if value is not None}
    branch = tree.branch(message["leaf"])
    return metrics | {
        "prompt_token_ids": branch.token_ids[:prompt].tolist(),
        "completion_token_ids": branch.token_ids[prompt:].tolist(),
        "logprobs": branch.logprob[prompt:].tolist(),
        "extra": {"weight_version": int(branch.version[-1])},
    }


def _read(document: Mapping[str, Any], source: str) -> tuple[Rollout, bool]:
    facts = dict((document.get("extra") or {}).get(_OURS) or {})
    said = _gather(document, own=bool(facts))
    sampled = sorted((k for k, one in enumerate(said) if "metrics" in one), key=lambda k: (said[k].get("turn", k), k))
    told = {k: _tokens(said[k]["metrics"]) for k in sampled}
    exact = bool(sampled) and bool(facts.get("exact", True)) and None not in told.values()
    tree = Tree()
    for k in sampled:
        metrics, tokens = said[k].pop("metrics"), told[k] if exact else None
        said[k]["leaf"] = tree.commit(*tokens) if tokens is not None else None
        said[k] |= {name: metrics[name] for name in ("prompt_tokens", "completion_tokens") if name in metrics}
    unknown = {
        "task": str(document.get("session_id") or document.get("trajectory_id") or source),
        "domain": "imported",
        "group": 0,
        "sample": 0,
        "outcome": str(Outcome.CANCELLED),  # nobody here saw it end: its reward is not known, so it is not trained on
        "reward": None,
        "wall_s": 0.0,
        "detail": f"imported from {source}: how it ended is not known",
        "attempt": 1,
    }
    known = {name: facts[name] for name in _FACTS if name in facts}
    made = {"turns": len(sampled), "sampled_tokens": tree.num_sampled, "conversation": said}
    return from_metadata(unknown | known | made, tree), exact


def _gather(document: Mapping[str, Any], *, own: bool) -> list[dict[str, Any]]:
    """Return the messages of all documents with their parents; ours are where they stood, and once."""
    kept: dict[int, dict[str, Any]] = {}
    before: dict[int, int | None] = {}
    for each in _documents(document):
        parent: int | None = None
        for one in _messages(each):
            index, copied = one.pop("index", None), one.pop("copied", False)
            key = int(index) if own and index is not None else len(kept)
            if key not in kept or not copied:
                kept[key], before[key] = one, parent
            if copied:
                one.pop("metrics", None)
            parent = key
    places = {key: place for place, key in enumerate(sorted(kept))}
    return [kept[key] | {"parent": places.get(before[key])} for key in places]  # type: ignore[arg-type]


def _tokens(metrics: Mapping[str, Any]) -> tuple[list[int], list[int], list[float], int] | None:
    """Return what `Tree.commit` takes, or None where ids or log-probs are missing."""
    prompt, sampled, logprobs = (metrics.get(n) for n in ("prompt_token_ids", "completion_token_ids", "logprobs"))
    if not prompt or not sampled or logprobs is None or len(logprobs) != len(sampled):
        return None
    return list(prompt), list(sampled), list(logprobs), int((metrics.get("extra") or {}).get("weight_version") or 0)


def _documents(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield document
    for other in document.get("subagent_trajectories") or ():
        yield from _documents(other)


def _messages(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a document says, observations behind the step that made them."""
    for step in document["steps"]:
        extra = step.get("extra") or {}
        role = {"system": "system", "user": "user", "agent": "assistant"}[step["source"]]
        one: dict[str, Any] = {"role": extra.get("role", role), "content": _text(step["message"])}
        if step.get("tool_calls"):
            calls = step["tool_calls"]
            one["tool_calls"] = [{"name": call["function_name"], "arguments": call["arguments"]} for call in calls]
        if step.get("reasoning_content"):
            one["reasoning"] = step["reasoning_content"]
        if role == "assistant" and step.get("llm_call_count") != 0:
            one["metrics"] = step.get("metrics") or {}
        if step.get("is_copied_context"):
            one["copied"] = True
        yield one | {name: extra[name] for name in ("index", "turn") if name in extra}
        for result in (step.get("observation") or {}).get("results") or ():
            placed = {name: value for name, value in (result.get("extra") or {}).items() if name in ("index", "turn")}
            yield {"role": "tool", "content": _text(result.get("content") or "")} | placed


def _text(content: Any) -> str:
    """Return a message's text; pictures and sounds are named, not shown."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] if part["type"] == "text" else f"[{part['type']}]" for part in content)

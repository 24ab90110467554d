"""A synthetic run directory: everything a report can meet, written through the same doors as a real run's files."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from palmette.run import RunDir
from palmette.trajectory.store import TreeStore
from palmette.trajectory.tree import Tree

DOMAINS = ("swe", "terminal")
SCORES = {
    "swe": {"base": 0.31, "sft": 0.52, "expert": 0.8125, "student": 0.79},
    "terminal": {"base": 0.4, "sft": 0.61, "expert": 0.92, "student": 0.9},
}
SYSTEM = "You are an agent in a Linux shell. Solve the task with the tools, then submit."
CONFIG = '[model]\npath = "palmette:base"\n\n[rl]\nsteps = 30\nlearning_rate = 3e-4\n'


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SYSTEM, "cat notes.txt grep error assistant user tool submit"] * 8, trainer)
    return tokenizer


def write_run(path: Path, *, rollouts: int = 240, finished: bool = True) -> Path:
    """Write a run of all stages; deterministic but for times."""
    rng = random.Random(7)
    run = RunDir.create(path, CONFIG, seed=7)
    tokenizer = make_tokenizer()
    tokenizer.save(str(run.path / "tokenizer.json"))
    with run.attempt():
        for domain in DOMAINS:
            _sft(run, f"sft/{domain}", rng)
            _rl(run, f"rl/{domain}", 30, rng)
        _rl(run, "distil", 24, rng, finished=finished)
        store = TreeStore(run.path / "trees")
        store.extend(_rollout(number, tokenizer, rng) for number in range(rollouts))
        if finished:
            _evaluations(run)
            (run.path / "summary.json").write_text(json.dumps(_summary()))
    return run.path


def _evaluations(run: RunDir) -> None:
    for model in ("base", "expert", "student"):
        tiers = {
            domain: {str(t): {"pass_1": SCORES[domain][model] ** t, "interval": [0.1, 0.99]} for t in (1, 2)}
            for domain in DOMAINS
        }
        run.metrics(f"evaluate/{model}", 0, **{f"pass_1/{domain}": SCORES[domain][model] for domain in DOMAINS})
        overall = {"excluded": 2, "rollouts": 128}
        run.finish_stage(f"evaluate/{model}", {"overall": overall, "tiers": tiers, "seconds": 20.0})


def _summary() -> dict[str, object]:
    domains = {
        name: dict(scores) | {f"{key}_interval": [max(0, v - 0.12), min(1, v + 0.1)] for key, v in scores.items()}
        for name, scores in SCORES.items()
    }
    return {
        "domains": domains,
        "tasks_held_out": 128,
        "minutes": 11.4,
        "peak_memory_gb": 2.31,
        "machine": "2 cores, 24 GB, x86_64",
        "date": "2025-11-21",
    }


def _sft(run: RunDir, stage: str, rng: random.Random) -> None:
    for step in range(40):
        run.metrics(stage, step, loss=2.2 * math.exp(-step / 12) + 0.2 + 0.05 * rng.random(), tokens_per_s=8100.0)
    run.finish_stage(stage, {"seconds": 61.5, "loss": 0.31})


def _rl(run: RunDir, stage: str, steps: int, rng: random.Random, *, finished: bool = True) -> None:
    for step in range(steps):
        success = min(1.0, max(0.0, 0.9 - 0.45 * math.exp(-step / 9) + rng.gauss(0, 0.05)))
        extra = {"teacher_kl": 0.8 * math.exp(-step / 8)} if stage == "distil" else {}
        run.metrics(
            stage, step, **extra, success=success, mean_reward=0.96 * success, loss=rng.gauss(0, 0.02), entropy=0.4
        )
    if finished:
        run.finish_stage(stage, {"steps": steps, "seconds": 148.0, "success": 0.9})


def _rollout(number: int, tokenizer: Tokenizer, rng: random.Random) -> tuple[dict[str, object], Tree]:
    domain = DOMAINS[number % 2]
    stage, model = rng.choice(
        [(f"rl/{domain}", "expert"), ("distil", "student"), ("evaluate", "base"), ("evaluate", "student")]
    )
    outcome = rng.choices(["ok", "turn_limit", "gave_up", "sandbox_lost"], [12, 2, 1, 1])[0]
    reward = {"ok": float(rng.random() < 0.7), "turn_limit": 0.0, "gave_up": 0.0, "sandbox_lost": None}[outcome]
    tree, conversation = _talk(tokenizer, rng, forked=number % 20 == 3, credited=stage != "evaluate")
    return {
        "task": f"palmette/{domain}-{number:04d}",
        "domain": domain,
        "tier": 1 + number % 3,
        "group": number // 8,
        "sample": number % 8,
        "outcome": outcome,
        "reward": reward,
        "turns": sum(message["role"] == "assistant" for message in conversation),
        "sampled_tokens": tree.num_sampled,
        "wall_s": 1.25,
        "conversation": conversation,
        "detail": "2 passed in 0.02s" if reward else "expected 'kavo', found 'kav' <b>in</b> answer.txt",
        "attempt": 1,
        "stage": stage,
        "step": rng.randrange(30),
        "model": model,
    }, tree


def _talk(tokenizer: Tokenizer, rng: random.Random, *, forked: bool, credited: bool) -> tuple[Tree, list[dict]]:
    tree = Tree()
    instruction = "Find the word after 'key:' in notes.txt, and write it to answer.txt. Grüße → 日本 ✓"
    conversation: list[dict] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": instruction}]
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in conversation)
    ids = tokenizer.encode(text + "<|im_start|>assistant\n").ids
    calls = [
        {"name": "bash", "arguments": {"command": "grep -n 'key:' notes.txt | head -3"}},
        {"name": "edit", "arguments": {"path": "answer.txt", "old": "todo", "new": "kavo\n"}},
        {"name": "submit", "arguments": {}},
    ]
    for number, call in enumerate(calls):
        sampled = tokenizer.encode(f"<tool_call>\n{json.dumps(call)}\n</tool_call><|im_end|>").ids
        logprobs = [-rng.expovariate(4) for _ in sampled]
        leaf = tree.commit(ids, sampled, logprobs, 3)
        if credited:
            tree.write("advantage", leaf, [rng.choice([0.8, -0.6])] * len(sampled))
            tree.write("teacher_logprob", leaf, [value + rng.gauss(0, 0.5) for value in logprobs])
        if forked and number == 1:
            tree.commit(ids, sampled[: len(sampled) // 2], logprobs[: len(sampled) // 2], 3)
        conversation.append({"role": "assistant", "content": "", "tool_calls": [call], "leaf": leaf, "turn": number})
        if call["name"] != "submit":
            conversation.append({"role": "tool", "content": "notes.txt:3:key: kavo\n" * (1 + number)})
            told = f"\n<|im_start|>tool\n{conversation[-1]['content']}<|im_end|>\n<|im_start|>assistant\n"
            ids = ids + sampled + tokenizer.encode(told).ids
    return tree, conversation


@pytest.fixture(scope="session")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished synthetic run."""
    return write_run(tmp_path_factory.mktemp("runs") / "demo")

"""The whole pipeline, shrunken, through the very code of the demo, on checkpoints that are not ours."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from palmette.engine.api import Sampling
from palmette.errors import UserError
from palmette.model.load import load_model
from palmette.registry import UNREACHABLE
from palmette.rollout.outcomes import RULES, Outcome
from palmette.rollout.record import load_rollouts
from palmette.rollout.run import Rollout
from palmette.run import RunDir
from palmette.scaffolds.install import install
from palmette.scaffolds.roster import AGENTS
from palmette.train.curriculum import CurriculumConfig
from palmette.train.distil import check_renderers
from palmette.train.material import ready_tasks
from palmette.train.onpolicy import Filled, on_policy
from palmette.train.pipeline import run_pipeline
from palmette.train.recipe import EvalConfig, GatewayConfig, Recipe
from palmette.train.rl import RlConfig, with_advantage
from palmette.train.samples import from_tree
from palmette.train.stage import Stage
from palmette.train.workplace import Workplace, open_workplace
from palmette.trajectory.store import TreeStore

pytestmark = pytest.mark.slow

CHATML = """{%- if tools %}<|im_start|>system
# Tools
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
Answer with <tool_call>{"name": ..., "arguments": {...}}</tool_call>.<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make_checkpoint(
    folder: Path, architecture: str, *, template: str = CHATML, context: int = 4096, seed: int = 3
) -> Path:
    """Write a random model with a tokenizer of its own, as if it came from the hub."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[AddedToken(mark, special=True) for mark in marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(
        ["cat a.txt && python -m pytest", '{"name": "bash", "arguments": {"command": "ls"}}'], trainer
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = template
    shape: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 48,
        "max_position_embeddings": context,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    if architecture == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**shape, tie_word_embeddings=True))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def shrunken(path: Path, domains: Sequence[str] = ("terminal", "swe")) -> Recipe:
    """Return a recipe of a few tasks and steps."""
    small = {"groups": 2, "samples": 2, "steps": 2, "checkpoint_every": 1}
    return Recipe.model_validate(
        {
            "seed": 4,
            "domains": list(domains),
            "model": {"path": str(path)},
            "tasks": {domain: {"train": 3, "heldout": 2, "tiers": [1]} for domain in domains},
            "sft": {"epochs": 2, "batch": 2},
            "rl": small,
            "distil": small,
            "concurrency": 4,
            "max_tokens": 16,
        }
    )


def finished(run: RunDir) -> dict[str, str]:
    """Return stage -> when it finished."""
    return {
        name: json.loads((run.path / "stages" / f"{name}.json").read_text())["finished_at"] for name in run.stages()
    }


async def test_two_domains_on_qwen3(tmp_path: Path) -> None:
    recipe = shrunken(make_checkpoint(tmp_path / "qwen3", "qwen3"))
    mcla = {"resample": 1, "old_logprob": "monte_carlo", "gate": "icepop", "ratio": "turn"}
    top = {"form": "top_k", "drift_weight": 1.0, "drift_below": 0.2}
    recipe = recipe.model_copy(
        update={
            "rl": recipe.rl.model_copy(update=mcla),
            "distil": recipe.distil.model_copy(update=top),
            "baselines": ["average", "mixed_rl"],
        }
    )
    run = RunDir.create(tmp_path / "run", recipe, seed=recipe.seed)
    await run_pipeline(recipe, run)
    for row in run.read_metrics("rl/terminal"):  # a random model solves nothing, so groups were drawn again
        assert row["rollouts"] == 8
        assert row["silent_groups"] == 1

    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["tasks_held_out"] == 4
    for scores in summary["domains"].values():
        assert {"base", "sft", "expert", "average", "mixed_rl", "student"} <= scores.keys()
        assert all(0 <= scores[model] <= 1 for model in ("base", "sft", "expert", "average", "mixed_rl", "student"))
    assert summary["minutes"] > 0
    assert 0.1 < summary["peak_memory_gb"] < 20
    assert (run.path / "report.html").stat().st_size > 1000

    base = load_model(tmp_path / "qwen3")
    experts = [load_model(run.path / "models" / f"expert-{domain}").state_dict() for domain in ("terminal", "swe")]
    for name, tensor in load_model(run.path / "models" / "average").state_dict().items():
        torch.testing.assert_close(tensor, (experts[0][name] + experts[1][name]) / 2)
    for name in ("sft-terminal", "sft-swe", "student"):
        trained = load_model(run.path / "models" / name)
        assert any(not torch.equal(a, b) for a, b in zip(base.parameters(), trained.parameters(), strict=True)), name
    rows = run.read_metrics("distil")
    assert [row["step"] for row in rows] == [1, 2]
    assert abs(rows[0]["teacher_kl"]) > 1e-5  # the experts have left the base
    for rollout, _ in load_rollouts(TreeStore(run.path / "trees"), stage="distil"):
        assert "teacher_logprob" in rollout.tree.names

    before = finished(run)
    await run_pipeline(recipe, run)  # all there: nothing is done again but the report
    after = finished(run)
    assert {name: at for name, at in after.items() if name != "report"} == {
        name: at for name, at in before.items() if name != "report"
    }


@pytest.mark.timeout(900)  # mini-swe-agent takes a minute to install, and seconds to start
async def test_a_recipe_trains_a_model_behind_mini_swe_agent(tmp_path: Path) -> None:
    """A black box from its registry, unchanged: the student's own tokens in it are what the teacher scores."""
    try:
        install(AGENTS["mini-swe-agent"])
    except UserError as error:
        if UNREACHABLE in str(error):
            pytest.skip(str(error))
        raise
    start = make_checkpoint(tmp_path / "student", "qwen3", context=9000)
    teacher = make_checkpoint(tmp_path / "teacher", "qwen3", context=9000, seed=4)
    recipe = Recipe.model_validate(
        {
            "domains": ["terminal"],
            "stages": ["distil"],
            "model": {"path": str(start)},
            "tasks": {"terminal": {"train": 2, "heldout": 1, "tiers": [1]}},
            "agents": {"terminal": {"loop": 1, "mini-swe-agent": 1}},
            "distil": {
                "teachers": {"terminal": str(teacher)},
                "groups": 2,
                "samples": 1,
                "steps": 1,
                "cold_start": 0,
                "rl_weight": 0,
            },
            "max_tokens": 400,
        }
    )
    run = RunDir.create(tmp_path / "run", recipe, seed=recipe.seed)
    await run_pipeline(recipe, run)
    rollouts = {r.scaffold: r for r, _ in load_rollouts(TreeStore(run.path / "trees"), stage="distil")}
    assert rollouts.keys() == {"loop", "mini-swe-agent"}
    mini = rollouts["mini-swe-agent"]
    assert RULES[mini.outcome].trainable, (mini.outcome, mini.detail)
    assert mini.turns >= 1
    assert "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT" in str(mini.conversation[:2]), "the agent's own prompt"
    for branch in mini.tree.branches():
        assert (branch.array("teacher_logprob")[branch.sampled] < 0).all(), "every sampled token was scored"
    assert run.read_metrics("distil")[0]["rollouts"] == 2
    before, after = load_model(start), load_model(run.path / "models" / "student")
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


async def test_a_killed_run_has_kept_every_answer_an_agent_was_told(tmp_path: Path) -> None:
    """The disk as it is in the middle of a step is what a kill leaves: an attempt on it finds all that was told."""
    recipe = shrunken(make_checkpoint(tmp_path / "llama", "llama"), ["terminal"])
    recipe = recipe.model_copy(update={"gateway": GatewayConfig(journal=True)})
    run = RunDir.create(tmp_path / "run", recipe, seed=recipe.seed)
    told: list[list[int]] = []

    def copy_disk(place: Workplace, finished: list[Rollout]) -> None:
        told.extend(branch.token_ids.tolist() for rollout in finished for branch in rollout.tree.branches())
        for session in place.gateway.sessions.values():  # the last turn may not be told yet; others were asked after
            told.extend(session.tree.path_ids(turn.leaf).tolist() for turn in session.recorded[:-1])
        shutil.copytree(run.path, tmp_path / "copy")

    async with open_workplace(recipe, run) as place:
        tasks = (await ready_tasks(recipe, run, place))[0]["terminal"]["train"]
        finished: list[Rollout] = []

        def on_done(rollout: Rollout) -> None:
            finished.append(rollout)
            if len(finished) == 5:
                copy_disk(place, finished)

        sampling = Sampling(max_tokens=8)
        found = await place.pool.run(tasks, samples=4, sampling=sampling, on_done=on_done)
        place.record(found, stage="rl/terminal", step=1, model="expert")
    async with open_workplace(recipe, RunDir.open(tmp_path / "copy")):
        pass
    rollouts = [r for r, _ in load_rollouts(TreeStore(tmp_path / "copy" / "trees"), stage="interrupted")]
    kept = {tuple(branch.token_ids.tolist()) for rollout in rollouts for branch in rollout.tree.branches()}
    assert len(told) >= 5
    assert all(any(path[: len(ids)] == tuple(ids) for path in kept) for ids in told)
    assert {(rollout.outcome, rollout.reward) for rollout in rollouts} == {(Outcome.CANCELLED, None)}
    assert {rollout.task for rollout in rollouts} <= {task.name for task in tasks}
    async with open_workplace(recipe, run):
        pass
    assert not list(load_rollouts(TreeStore(run.path / "trees"), stage="interrupted")), "what is stored is settled"


async def test_llama_interrupted_and_resumed(tmp_path: Path) -> None:
    recipe = shrunken(make_checkpoint(tmp_path / "llama", "llama"), ["terminal"])
    curriculum = CurriculumConfig(complexity=True, intents=["specification", "colloquial"])
    recipe = recipe.model_copy(
        update={
            "curriculum": curriculum,
            "eval": EvalConfig(scaffold="loop:xml", intents=["colloquial"], scaffolds=["loop"]),
        }
    )
    run = RunDir.create(tmp_path / "run", recipe, seed=recipe.seed)
    for wanted in ("tasks", "sft/terminal", "evaluate/expert-terminal"):
        work = asyncio.create_task(run_pipeline(recipe, run))
        while not run.stage_done(wanted) and not work.done():
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    before = finished(run)
    await run_pipeline(recipe, run)
    after = finished(run)
    assert {name: after[name] for name in before} == before
    assert {"distil", "evaluate/student", "report"} <= after.keys()
    rows = run.read_metrics("rl/terminal")
    assert [row["step"] for row in rows] == [1, 2]
    assert [row["in_band"] for row in rows] == [0, 0], "a random model solves nothing"
    assert [row["measured"] for row in rows] == pytest.approx([2 / 3, 1]), "the one that nobody had tried came next"
    told = {rollout.intent for rollout, _ in load_rollouts(TreeStore(run.path / "trees"), stage="rl/terminal")}
    assert told == {"specification", "colloquial"}
    for part, by in (("", "loop:xml"), ("/colloquial", "loop:xml"), ("/loop", "loop")):
        measured = load_rollouts(TreeStore(run.path / "trees"), stage=f"evaluate/student{part}")
        assert {rollout.scaffold for rollout, _ in measured} == {by}
    axes = json.loads((run.path / "summary.json").read_text())["axes"]
    assert axes.keys() == {"tier", "intent", "scaffold"}
    assert axes["intent"]["terminal"]["colloquial"].keys() >= {"base", "sft", "expert", "student"}
    page = (run.path / "report.html").read_text()
    assert "terminal, intent colloquial" in page
    assert "terminal, scaffold loop" in page


async def test_the_on_policy_loop_updates_and_resumes(tmp_path: Path) -> None:
    """With advantages that do not wait for a random model to solve anything: prefer short rollouts."""
    recipe = shrunken(make_checkpoint(tmp_path / "llama", "llama"), ["terminal"])
    run = RunDir.create(tmp_path / "run", recipe, seed=recipe.seed)
    config = RlConfig(groups=2, samples=2, steps=4, epochs=2, minibatches=2, checkpoint_every=1)

    def fill(rollouts: Sequence[Rollout]) -> Filled:
        mean = sum(r.sampled_tokens for r in rollouts) / len(rollouts)
        pairs = [
            (with_advantage(s, 1.0 if r.sampled_tokens < mean else -1.0), r)
            for r in rollouts
            for s in from_tree(r.tree)
        ]
        return Filled(samples=[s for s, _ in pairs], rollouts=[r for _, r in pairs], metrics={})

    def stage(model: Any) -> Stage:
        return Stage(run, "rl/x", model, config.optim, updates=config.updates, seed=1, checkpoint_every=1)

    async with open_workplace(recipe, run) as place:
        tasks = (await ready_tasks(recipe, run, place))[0]["terminal"]["train"]
        first = stage(load_model(place.model_dir))
        start = [p.detach().clone() for p in first.model.parameters()]
        work = asyncio.create_task(on_policy(first, place, tasks, config, fill, model_name="expert"))
        while first.step < 2:
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert 2 <= first.step < 4
        assert first.optimiser.updates == first.step * 4
        second = stage(load_model(place.model_dir))
        assert second.step == first.step
        row = await on_policy(second, place, tasks, config, fill, model_name="expert")
        assert second.step == 4
        assert second.store_offset == place.recorded
        served = await place.engine.score([5, 6, 7])
    assert any(not torch.equal(a, b) for a, b in zip(start, second.model.parameters(), strict=True))
    with torch.no_grad():
        logp = second.model(input_ids=torch.tensor([[5, 6, 7]])).logits[0].log_softmax(-1)
    assert served == pytest.approx([float(logp[0, 6]), float(logp[1, 7])], abs=1e-4)
    rows = run.read_metrics("rl/x")
    assert [each["step"] for each in rows] == [1, 2, 3, 4]
    assert rows[-1]["grad_norm"] > 0
    assert row["entropy"] > 1
    for each in rows[:1]:
        assert each["ratio_mean"] == pytest.approx(1, abs=0.1)
    rollouts = list(load_rollouts(TreeStore(run.path / "trees"), stage="rl/x", step=4))
    assert len(rollouts) == 4
    assert all(set(r.tree.names) == {"advantage"} for r, _ in rollouts)


def test_teachers_with_another_template_are_refused(tmp_path: Path) -> None:
    from palmette.chat.template import Renderer

    one = make_checkpoint(tmp_path / "one", "llama")
    other = make_checkpoint(tmp_path / "other", "llama", template=CHATML.replace("# Tools", "# The tools"))
    check_renderers(Renderer.from_dir(one), {"swe": one})
    with pytest.raises(UserError, match="the swe teacher"):
        check_renderers(Renderer.from_dir(one), {"swe": other})


async def test_a_student_may_start_from_the_mean_of_the_experts(tmp_path: Path) -> None:
    recipe = shrunken(make_checkpoint(tmp_path / "llama", "llama"))
    still = {"start": "average", "optim": recipe.distil.optim.model_copy(update={"lr": 1e-12})}
    recipe = recipe.model_copy(update={"distil": recipe.distil.model_copy(update=still), "stages": ["sft", "distil"]})
    run = RunDir.create(tmp_path / "run", recipe, seed=recipe.seed)
    await run_pipeline(recipe, run)
    experts = [load_model(run.path / "models" / f"sft-{domain}").state_dict() for domain in ("terminal", "swe")]
    for name, tensor in load_model(run.path / "models" / "student").state_dict().items():
        torch.testing.assert_close(tensor, (experts[0][name] + experts[1][name]) / 2)


_UNLIKE = r"^[^\n]*is of another architecture than[^\n]*distil\.start$"


@pytest.mark.parametrize(
    ("baselines", "start", "message"),
    [
        (["average"], "base", _UNLIKE),
        ([], "average", _UNLIKE),
        ([], "base", r"^[^\n]*another tokenizer or chat template[^\n]*$"),
    ],
)
async def test_unfit_teachers_are_refused_before_anything_runs(
    baselines: list[str], start: str, message: str, tmp_path: Path
) -> None:
    recipe = shrunken(make_checkpoint(tmp_path / "qwen3", "qwen3"))
    template = CHATML if "architecture" in message else CHATML.replace("# Tools", "# The tools")
    teacher = make_checkpoint(tmp_path / "llama", "llama", template=template)
    distil = recipe.distil.model_copy(update={"teachers": {"swe": str(teacher)}, "start": start})
    recipe = recipe.model_copy(update={"distil": distil, "baselines": baselines})
    run = RunDir.create(tmp_path / "run", recipe, seed=recipe.seed)
    with pytest.raises(UserError, match=message):
        await run_pipeline(recipe, run)
    assert run.stages() == []

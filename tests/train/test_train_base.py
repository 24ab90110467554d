"""Proves: the base is taught the tokens a rollout shows, blunders are wrong, and its recipe runs and resumes."""

import random
from pathlib import Path

import pytest

from palmette.chat.template import Renderer
from palmette.envs.build import drafts
from palmette.envs.names import DOMAINS
from palmette.rollout.offer import offer_of
from palmette.run import RunDir
from palmette.scaffolds.loop import toolset
from palmette.train.base.blunder import blunder
from palmette.train.base.corpus import conversation, transcripts, turns
from palmette.train.base.recipe import BaseRecipe, Corpus, Shape
from palmette.train.base.tokenizer import train_tokenizer
from palmette.train.base.train import render, sample_of, train_base

TINY = BaseRecipe(steps=4, batch=4, save_every=2, shape=Shape(hidden=32, layers=1, expert_dim=16, vocab=400))
EASY = {name: [1] for name in DOMAINS}
TAUGHT = {name: [1, 2, 3] if name in ("terminal", "swe") else [1] for name in DOMAINS}


@pytest.fixture(scope="module")
def tokenizer():
    made = transcripts(dict.fromkeys(DOMAINS, 1.0), EASY, count=100, sloppy=0, split="train", seed="t")
    texts = [render(each.messages, each.tools) for each in made]
    return train_tokenizer(texts, vocab_size=600, context_tokens=2048)


@pytest.mark.parametrize("name", DOMAINS)
def test_the_whole_is_tokenised_as_turn_by_turn(name: str, tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    renderer = Renderer.from_dir(tmp_path)
    for draft in drafts(name, count=9, tiers=TAUGHT[name], split="heldout", seed=1):
        messages, tools = conversation(draft, draft.steps), toolset(offer_of(draft))
        sample = sample_of(render(messages, tools), tokenizer)
        ids = renderer.prompt(messages[:2], tools)
        sampled = [False] * len(ids)
        for index in range(2, len(messages), 2):
            answer = renderer.completion(messages[:index], messages[index], tools)
            sampled += [True] * len(answer)
            told = messages[index + 1 : index + 2]
            if told:
                ids = renderer.extend(ids, answer, messages[: index + 1], told, tools)
                sampled += [False] * (len(ids) - len(sampled))
            else:
                ids = [*ids, *answer]
        shown = sample.token_ids_T.tolist()
        assert shown[: len(ids)] == ids
        assert sample.sampled_T.tolist()[: len(ids)] == sampled
        assert tokenizer.decode(shown[len(ids) :]) == "\n"  # what follows the last turn is nobody's to learn


@pytest.mark.parametrize("name", DOMAINS)
def test_a_blunder_changes_exactly_one_step_for_the_worse(name: str) -> None:
    rng = random.Random(0)
    for draft in drafts(name, count=60, tiers=TAUGHT[name], split="train", seed=2):
        wrong = blunder(draft.steps, rng, "train")
        if len(wrong) == len(draft.steps):
            changed = [(a, b) for a, b in zip(draft.steps, wrong, strict=True) if a != b]
            assert len(changed) == 1
            assert changed[0][0].tool == changed[0][1].tool
            assert changed[0][0].arguments != changed[0][1].arguments
        else:
            assert len(wrong) == len(draft.steps) - 1
        assert wrong[-1].tool == "submit"


@pytest.mark.parametrize("name", DOMAINS)
def test_a_transcript_shows_the_tools_and_the_words_of_its_task(name: str) -> None:
    for each in transcripts({name: 1.0}, EASY, count=20, sloppy=0.5, split="train", seed="w"):
        assert each.messages[0].role == "system"
        called = {call.name for message in each.messages for call in message.tool_calls}
        assert called <= {tool.name for tool in each.tools}
        assert each.messages[-1].tool_calls[0].name == "submit"
        text = render(each.messages, each.tools)
        assert all(f"\n{tool.name}(" in text for tool in each.tools)
        assert "<tool_call>" in text


def test_domains_have_their_shares_of_every_beginning() -> None:
    shares = {"terminal": 3.0, "swe": 1.0, "web": 0.0}
    order = turns(shares, 400)
    assert order.count("swe") == 100
    assert order.count("web") == 0
    for end in range(1, 401):
        assert abs(order[:end].count("terminal") - 0.75 * end) <= 1.0
    assert turns({"terminal": 1.0, "swe": 1.0}, 5) == ["terminal", "swe", "terminal", "swe", "terminal"]


@pytest.mark.parametrize(
    ("corpus", "why"),
    [
        ({"domains": ["terminl"]}, "did you mean 'terminal'"),
        ({"shares": {"web": 1.0}}, "not among the domains"),
        ({"shares": {"terminal": 0.0, "swe": 0.0}}, "one of them above"),
        ({"tiers": {"swe": [9]}}, r"swe has \[1"),
    ],
)
def test_a_corpus_that_cannot_be_made_is_refused(corpus: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Corpus(**corpus)


def test_the_share_of_blunders_is_the_recipe_s() -> None:
    def wrong(sloppy: float) -> int:
        clean = transcripts({"terminal": 1.0}, EASY, count=200, sloppy=0.0, split="train", seed="s")
        mixed = transcripts({"terminal": 1.0}, EASY, count=200, sloppy=sloppy, split="train", seed="s")
        return sum(a != b for a, b in zip(clean, mixed, strict=True))

    assert wrong(0.0) == 0
    assert wrong(1.0) == 200


async def test_the_recipe_runs_and_an_interrupted_one_ends_with_the_same_weights(tmp_path: Path) -> None:
    from palmette.model.load import load_model

    async def run(name: str, *, until: int | None) -> RunDir:
        made = tmp_path / name
        directory = RunDir.open(made) if made.exists() else RunDir.create(made, TINY)
        recipe = TINY
        if until is not None:  # what an interruption leaves behind: a checkpoint short of the end
            from palmette.train import stage

            original = stage.Stage.advance
            count = iter(range(until))

            async def stop_early(self, *args, **kwargs):
                if next(count, None) is None:
                    raise KeyboardInterrupt
                return await original(self, *args, **kwargs)

            stage.Stage.advance = stop_early
            try:
                with pytest.raises(KeyboardInterrupt):
                    await train_base(recipe, directory)
            finally:
                stage.Stage.advance = original
        else:
            await train_base(recipe, directory)
        return directory

    whole = await run("whole", until=None)
    await run("broken", until=3)
    mended = await run("broken", until=None)
    first, second = load_model(whole.path / "model"), load_model(mended.path / "model")
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert a.equal(b), name
    card = (whole.path / "model" / "README.md").read_text()
    assert f"| transcripts | {TINY.steps * TINY.batch:,} |" in card
    assert "50% of what it read ends in failure" in card

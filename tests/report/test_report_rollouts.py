"""Rollouts in a report: chosen fairly, and every token told with the text, the author and the numbers it has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from palmette.report.pick import Shown, kind_of, pick
from palmette.report.tokens import Pieces, find_pieces
from palmette.report.tree_view import TokenTable, view
from palmette.trajectory.store import TreeStore
from palmette.trajectory.tree import Tree

TEXT = "Grüße 日本 👩‍👩‍👧 ✓ <|im_start|>a\n\tb"


@pytest.fixture
def tokenizer(run_path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(run_path / "tokenizer.json"))


@given(kinds=st.lists(st.integers(0, 5), max_size=60), a_kind=st.integers(1, 4), most=st.integers(1, 20))
def test_every_kind_is_shown_before_any_is_shown_twice(kinds: list[int], a_kind: int, most: int):
    records = [({"stage": f"s{kind}", "reward": 1.0}, Tree()) for kind in kinds]
    shown, total = pick(records, a_kind=a_kind, most=most)
    counts = Counter(kind_of(each.metadata)[0] for each in shown)
    assert total == len(kinds)
    assert len(shown) == min(most, sum(min(a_kind, count) for count in Counter(kinds).values()))
    assert all(count <= a_kind for count in counts.values())
    if len(counts) < len(set(kinds)):
        assert max(counts.values()) == 1
    assert [each.index for each in shown] == sorted({each.index for each in shown})
    assert all(records[each.index][0] is each.metadata for each in shown)


def test_the_choice_is_even_and_the_same_every_time():
    records = [({"stage": "s"}, Tree()) for _ in range(2000)]
    once, _ = pick(records, a_kind=400, most=400)
    again, _ = pick(records, a_kind=400, most=400)
    assert [each.index for each in once] == [each.index for each in again]
    assert 900 < sum(each.index for each in once) / len(once) < 1100  # not the first, not the last


def test_token_texts_put_together_are_what_the_tokenizer_decodes(run_path: Path, tokenizer: Tokenizer):
    ids = tokenizer.encode(TEXT).ids
    texts = Pieces(run_path / "tokenizer.json").texts(ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids, skip_special_tokens=False) == TEXT
    assert "<|im_start|>" in texts


def test_ids_outside_the_vocabulary_are_shown_as_they_are(run_path: Path, tokenizer: Tokenizer):
    ids = [*tokenizer.encode("ab").ids, 999_999, *tokenizer.encode("✓").ids]
    assert "".join(Pieces(run_path / "tokenizer.json").texts(ids)) == "ab<999999>✓"


def test_the_tokenizer_is_found_in_the_run_its_models_or_its_recipe(run_path: Path, tmp_path: Path):
    data = (run_path / "tokenizer.json").read_bytes()
    assert find_pieces(tmp_path, {}) is None
    assert find_pieces(tmp_path, {"model": {"path": str(run_path)}}) is not None
    model = tmp_path / "models" / "expert-swe"
    model.mkdir(parents=True)
    (model / "tokenizer.json").write_bytes(data)
    assert find_pieces(tmp_path, {"model": {"path": "gone"}}) is not None


def read_back(drawn: dict[str, Any], table: TokenTable, place: int) -> tuple[str, list[int], list[bool]]:
    """What the page shows for the path to a node."""
    text, ids, sampled = "", [], []
    path = []
    while place >= 0:
        path.insert(0, drawn["nodes"][place])
        place = path[0]["p"]
    for node in path:
        text += "".join(node.get("x", {}).get(str(n), table.words[i]) for n, i in enumerate(node["i"]))
        ids += node["i"]
        sampled += [node["t"] >= 0] * len(node["i"])
    return text, ids, sampled


def test_a_view_tells_every_branch_exactly(run_path: Path, tokenizer: Tokenizer):
    table = TokenTable(find_pieces(run_path, {}))
    shown, total = pick(TreeStore(run_path / "trees"))
    assert total == 240
    forked = 0
    for each in shown:
        drawn = view(each, table)
        branches = each.tree.branches()
        forked += len(branches) > 1
        order = each.tree.nodes()
        for branch in branches:
            text, ids, sampled = read_back(drawn, table, order.index(branch.leaf))
            assert ids == branch.token_ids.tolist()
            assert sampled == branch.sampled.tolist()
            assert text == tokenizer.decode(ids, skip_special_tokens=False)
        for message in drawn["messages"]:
            if "leaf" in message:
                assert drawn["nodes"][message["leaf"]]["t"] >= 0
    assert forked


def test_numbers_of_tokens_are_those_of_the_tree(run_path: Path):
    tree = Tree()
    first = tree.commit([5, 6], [7, 8], [-0.12345, -2.0], 4)
    tree.write("advantage", first, np.float32([0.5, 0.5]))
    tree.write("teacher_logprob", first, np.float32([-1.0, -0.25]))
    second = tree.commit([5, 6, 7, 8, 9], [10], [-0.5], 5)
    metadata = {"task": "t", "reward": None, "conversation": [{"role": "assistant", "leaf": second}], "wall_s": 1.239}
    drawn = view(Shown(index=3, metadata=metadata, tree=tree), TokenTable(None))
    assert drawn["nodes"] == [
        {"p": -1, "i": [5, 6], "t": -1},
        {"p": 0, "i": [7, 8], "t": 0, "l": [-0.123, -2.0], "v": 4, "a": 0.5, "h": [-1.0, -0.25]},
        {"p": 1, "i": [9], "t": -1},
        {"p": 2, "i": [10], "t": 1, "l": [-0.5], "v": 5},
    ]
    assert drawn["messages"][0]["leaf"] == 3
    assert drawn["facts"] == {"task": "t", "wall_s": 1.24}  # an absent reward stays absent

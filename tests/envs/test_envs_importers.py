"""Proves: imported tasks are solved by their gold answers and by nothing else, broken rows are refused by file and line
while the others go on, and all of a source is on one side of the split."""

import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.commands.tasks import import_
from palmette.envs.api import Task
from palmette.envs.check import check_tasks
from palmette.envs.importers.match_calls import fault
from palmette.envs.importers.names import import_tasks
from palmette.envs.split import split_of
from palmette.errors import UserError
from palmette.sandbox.hosts import open_host

SCHEMA = {"name": "area", "parameters": {"type": "dict", "properties": {"base": {}, "height": {}, "unit": {}}}}


def committed(clone: Path) -> str:
    """Make a directory a repository and return the id of its one commit."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.invalid"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"], ["rev-parse", "HEAD"]):
        done = subprocess.run([*git, *command], cwd=clone, check=True, capture_output=True, text=True)
    return done.stdout.strip()


async def faults(tasks: tuple[Task, ...]) -> dict[str, str]:
    host = open_host("namespace")
    reports = await check_tasks(tasks, host, concurrency=2)
    await host.close()
    return {report.task.name: report.reason for report in reports if not report.ok}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


async def test_prompts_with_answers_and_checkers(tmp_path: Path) -> None:
    file = write(
        tmp_path / "mine.jsonl",
        {"id": "exact", "prompt": "The capital of France?", "answer": "Paris", "match": "ignore_case"},
        {"id": "number", "prompt": "1/3?", "answer": 0.3333, "match": "number", "tolerance": 0.001},
        {"prompt": "A year.", "answer": "19\\d\\d", "match": "regex", "solution": "echo 1984 > answer.txt"},
        {
            "prompt": "Sort.",
            "files": {"a.txt": "b\na\n"},
            "checker": "sort -c a.txt",
            "solution": "sort -o a.txt a.txt",
        },
        "{not json",
        {"prompt": "", "answer": "x"},
        {"prompt": "Both?", "answer": "x", "checker": "true"},
        {"prompt": "Climb.", "files": {"../x": ""}, "answer": "x"},
        {"prompt": "No way to know.", "checker": "true"},
        {"prompt": "A number?", "answer": "many", "match": "number"},
        ["a list"],
    )
    imported = import_tasks("prompts", file, tmp_path / "out", license="CC0-1.0")
    assert [why.partition(":")[2].partition(":")[0] for why in imported.refused] == [
        "5",
        "6",
        "7",
        "8",
        "9",
        "10",
        "11",
    ]
    assert "mine.jsonl:6: prompt must be a text" in imported.refused[1]
    assert [task.license for task in imported.tasks] == ["CC0-1.0"] * 4
    assert imported.tasks[0].provenance == "imported from mine.jsonl:1"
    assert await faults(imported.tasks) == {}


async def test_bfcl_rows_are_matched_as_their_checker_does(tmp_path: Path) -> None:
    ask = [[{"role": "user", "content": "Area of a triangle of base 10 and height 5?"}]]
    row = {"id": "simple_python_0", "question": ask, "function": [SCHEMA]}
    file = write(
        tmp_path / "BFCL_v4_simple_python.json",
        row,
        {**row, "id": "simple_python_1"},
        {**row, "id": "multi_turn_0", "involved_classes": ["GorillaFileSystem"]},
        {**row, "function": []},
        {**row, "id": "live_relevance_0-0-0"},
        {**row, "id": "live_irrelevance_7-0-1", "function": []},
        {
            **row,
            "id": "live_simple_8-1-0",
            "ground_truth": [{"order": {"items": [[{"what": ["tea"], "n": [2, 2.0]}]]}}],
        },
        {**row, "id": "live_simple_9-1-0", "ground_truth": [{"order": {"items": []}}]},
    )
    (tmp_path / "possible_answer").mkdir()
    truth = [{"area": {"base": [10], "height": [5, 5.0], "unit": ["", "cm"]}}]
    write(tmp_path / "possible_answer" / file.name, {"id": "simple_python_0", "ground_truth": truth})
    imported = import_tasks("bfcl", file, tmp_path / "out")
    names = ["bfcl/simple_python_0", "bfcl/live_irrelevance_7-0-1", "bfcl/live_simple_8-1-0"]
    assert [task.name for task in imported.tasks] == names
    assert [task.template for task in imported.tasks] == [
        "bfcl/simple_python",
        "bfcl/live_irrelevance",
        "bfcl/live_simple",
    ]
    assert [why.partition(": ")[0] for why in imported.refused] == [f"{file}:{n}" for n in (2, 3, 4, 5, 8)]
    assert "no ground_truth" in imported.refused[0]
    assert "GorillaFileSystem" in imported.refused[1]
    assert "accepts no value of items" in imported.refused[4]
    assert await faults(imported.tasks) == {}


def test_an_object_over_several_lines_is_no_file_of_rows(tmp_path: Path) -> None:
    file = write(tmp_path / "ids.json", json.dumps({"simple": ["simple_1"]}, indent=1))
    with pytest.raises(UserError, match="one JSON object over several lines"):
        import_tasks("bfcl", file, tmp_path / "out")


@pytest.mark.parametrize(
    ("calls", "right"),
    [
        ([{"name": "area", "arguments": {"base": 10, "height": 5.0}}], True),
        ([{"name": "area", "arguments": {"base": 10, "height": 5, "unit": "CM"}}], True),
        ([{"name": "area", "arguments": {"base": 10, "height": 6}}], False),
        ([{"name": "area", "arguments": {"base": 10}}], False),
        ([{"name": "area", "arguments": {"base": 10, "height": 5, "depth": 1}}], False),
        ([{"name": "volume", "arguments": {"base": 10, "height": 5}}], False),
        ([], False),
        ({"name": "area"}, False),
        ([{"name": "area", "arguments": {"base": True, "height": 5}}], False),
    ],
)
def test_what_fits_an_expected_call(calls: object, right: bool) -> None:
    expected = {"calls": [{"name": "area", "arguments": {"base": [10, 1], "height": [5], "unit": ["", "cm"]}}]}
    assert (fault(expected, json.dumps(calls), "") == "") is right


def test_the_order_of_calls_counts_only_where_it_should_and_so_does_what_is_said() -> None:
    calls = [{"name": name, "arguments": {}} for name in "ab"]
    swapped = json.dumps(calls[::-1])
    assert fault({"calls": calls}, swapped, "") == ""
    assert fault({"calls": calls, "ordered": True}, swapped, "") != ""
    assert fault({"calls": calls, "says": ["42 Euro"]}, swapped, "It costs 42 euro.") == ""
    assert fault({"calls": calls, "says": ["42 Euro"]}, swapped, "No idea.") != ""


async def test_tau2_tasks_become_planning_tasks_and_keep_their_row(tmp_path: Path) -> None:
    domain = tmp_path / "retail"
    domain.mkdir()
    action = {"action_id": "0_0", "name": "cancel_order", "arguments": {"order_id": "#W1", "reason": "late"}}
    task = {
        "id": "0",
        "user_scenario": {"instructions": {"reason_for_call": "Cancel order #W1", "known_info": "You are Ana."}},
        "evaluation_criteria": {"actions": [{**action, "compare_args": ["order_id"]}], "communicate_info": ["12.50"]},
    }
    idle = {**task, "id": "1", "evaluation_criteria": {"actions": []}}
    file = domain / "tasks.json"
    file.write_text(json.dumps([task, idle, 7]))
    imported = import_tasks("tau2", file, tmp_path / "out")
    assert [why.partition(": ")[0] for why in imported.refused] == [f"{file}:2", f"{file}:3"]
    assert "doing nothing would be right" in imported.refused[0]
    (got,) = imported.tasks
    assert json.loads((got.path / "source.json").read_text()) == task
    assert "Cancel order #W1" in got.instruction
    assert "#W1" not in (got.path / "environment/files/tools.json").read_text()
    assert await faults(imported.tasks) == {}


async def test_swe_bench_rows_are_built_from_a_clone_and_judged_test_by_test(tmp_path: Path) -> None:
    clone = tmp_path / "clones" / "own__pkg"
    (clone / "tests").mkdir(parents=True)
    (clone / "pkg.py").write_text("def double(x):\n    return x + 3\n")
    (clone / "tests/test_pkg.py").write_text("import pkg\n\n\ndef test_type():\n    assert pkg.double(1)\n")
    (clone / "blob.bin").write_bytes(b"\x00\xff")
    commit = committed(clone)
    row = {
        "repo": "own/pkg",
        "instance_id": "own__pkg-1",
        "base_commit": commit,
        "problem_statement": "double(2) should be 4",
        "patch": "--- a/pkg.py\n+++ b/pkg.py\n@@ -1,2 +1,2 @@\n def double(x):\n-    return x + 3\n+    return x * 2\n",
        "test_patch": "--- a/tests/test_pkg.py\n+++ b/tests/test_pkg.py\n@@ -3,3 +3,7 @@\n \n def test_type():\n"
        "     assert pkg.double(1)\n+\n+\n+def test_double():\n+    assert pkg.double(2) == 4\n",
        "FAIL_TO_PASS": '["tests/test_pkg.py::test_double"]',
        "PASS_TO_PASS": '["tests/test_pkg.py::test_type"]',
    }
    rows = [
        row,
        {**row, "instance_id": "b", "FAIL_TO_PASS": "tests"},
        {**row, "instance_id": "c", "base_commit": "f" * 40},
        {**row, "instance_id": "d", "FAIL_TO_PASS": '["test_double (tests.Case)"]'},
        {**row, "instance_id": "e", "patch": "no diff"},
        {
            **row,
            "instance_id": "f",
            "patch": row["patch"].replace("-1,2 +1,2", "-1,2 +1,3") + "+MOST = 9\n",
            "test_patch": row["test_patch"]
            .replace("pkg.double(2)", "__import__('pkg').double(2)")
            .replace("@@ -3,3 +3,7 @@\n \n", "@@ -1,5 +1,9 @@\n-import pkg\n+from pkg import MOST, double\n \n \n")
            .replace("     assert pkg.double(1)\n", "-    assert pkg.double(1)\n+    assert double(1) < MOST\n"),
        },
    ]
    file = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    imported = import_tasks("swe-bench", file, tmp_path / "out", clones=tmp_path / "clones")
    assert [why.partition(": ")[0] for why in imported.refused] == [f"{file}:{n}" for n in (2, 3, 5)]
    task, _, other = imported.tasks
    assert 'fail_to_pass = "2"' in (other.path / "task.toml").read_text()
    assert 'official_agreed = "1"' in (task.path / "task.toml").read_text()
    assert (task.path / "environment/files/blob.bin").read_bytes() == b"\x00\xff"
    assert task.source == "own/pkg"
    assert task.split == split_of("own/pkg")
    assert await faults(imported.tasks) == {}


def test_without_clones_a_row_names_the_published_image(tmp_path: Path) -> None:
    row = {
        "repo": "pallets/flask",
        "instance_id": "pallets__flask-5014",
        "base_commit": "1",
        "problem_statement": "p",
        "patch": "--- a\n+++ b\n",
        "test_patch": "--- a\n+++ b\n",
        "FAIL_TO_PASS": ["t.py::t"],
        "PASS_TO_PASS": [],
    }
    (task,) = import_tasks("swe-bench", write(tmp_path / "v.jsonl", row), tmp_path / "out").tasks
    first = (task.path / "environment/Dockerfile").read_text().splitlines()[0]
    assert first == "FROM swebench/sweb.eval.x86_64.pallets_1776_flask-5014:latest"
    assert task.workdir == "/testbed"


def test_the_command_names_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "p.jsonl", {"prompt": "1+1?", "answer": "2"}, {"prompt": 1})
    asked = {"split": "heldout", "license": "", "clones": None}
    assert import_("prompts", file, tmp_path / "out", **asked, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert [row["split"] for row in told["tasks"]] == ["heldout"]
    assert told["refused"] == [f"{file}:2: prompt must be a text that says something, not 1"]
    with pytest.raises(UserError, match="did you mean 'bfcl'"):
        import_("bfc", file, tmp_path / "out", **asked, as_json=True)
    with pytest.raises(UserError, match="is not a file"):
        import_("bfcl", tmp_path / "missing", tmp_path / "out", **asked, as_json=True)


@settings(max_examples=30)
@given(st.text(min_size=1), st.floats(0, 1))
def test_a_source_is_on_one_side_and_moves_to_held_out_only_as_its_share_grows(source: str, share: float) -> None:
    assert split_of(source, heldout_share=share) == split_of(source, heldout_share=share)
    assert split_of(source, heldout_share=0.0) == "train"
    assert split_of(source, heldout_share=1.0) == "heldout"
    if split_of(source, heldout_share=share) == "heldout":
        assert split_of(source, heldout_share=min(1.0, share + 0.1)) == "heldout"

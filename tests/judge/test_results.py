"""GenEval's results file and the scores in it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.errors import InvalidInput, MissingResource
from sanac.judge.detections import Detection
from sanac.judge.geneval import judge
from sanac.judge.intervals import wilson
from sanac.judge.metadata import Clause, GenEvalTask
from sanac.judge.results import Result, prompt_scores, read_results, result_of, summarise, write_results
from tests.judge.worlds import at, detections, law, tasks

DOG = GenEvalTask("single_object", "a dog", (Clause("dog"),))
CAT = GenEvalTask("single_object", "a cat", (Clause("cat"),))
RED = GenEvalTask("colors", "a red dog", (Clause("dog", color="red"),))


def results(*marks: tuple[GenEvalTask, str]) -> list[Result]:
    """Per prompt its pictures: + is correct, - is not."""
    return [
        Result(f"{task.prompt}/{index}.png", task, mark == "+", "", {})
        for task, text in marks
        for index, mark in enumerate(text)
    ]


@law
@given(st.lists(st.tuples(tasks(), detections()), min_size=1, max_size=3))
def test_results_survive_the_disk(
    tmp_path_factory: pytest.TempPathFactory, judged: list[tuple[GenEvalTask, list[Detection]]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "results.jsonl"
    made = [result_of(f"{index}.png", task, judge(task, found)) for index, (task, found) in enumerate(judged)]
    write_results(path, made)
    assert read_results(path) == made
    assert not list(path.parent.glob("*.partial"))


def test_a_line_is_genevals() -> None:
    line = result_of("0.png", RED, judge(RED, [at("dog", 50, 50, color="blue"), at("cat", 50, 50)])).to_json()
    assert list(line) == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert line["metadata"] == (
        '{"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a red dog"}'
    )
    assert json.loads(line["details"]) == {"dog": [[0, 0, 100, 100, 0.95]], "cat": [[0, 0, 100, 100, 0.95]]}
    assert line["correct"] is False
    assert line["reason"] == "dog: 1 red wanted, blue found"


def test_reasons_are_lines(tmp_path: Path) -> None:
    both = GenEvalTask("two_object", "x", (Clause("dog"), Clause("cat")))
    write_results(tmp_path / "r", [result_of("0", both, judge(both, []))])
    assert read_results(tmp_path / "r")[0].reason == "dog: 1 wanted, 0 found\ncat: 1 wanted, 0 found"


MALFORMED: dict[str, dict[str, Any]] = {
    "no filename": {"filename": None},
    "correct as text": {"correct": "true"},
    "correct as number": {"correct": 1},
    "a reason of null": {"reason": None},
    "half a character": {"metadata": "\ud800"},
    "metadata as object": {"metadata": DOG.to_json()},
    "metadata that is no JSON": {"metadata": "{"},
    "metadata of another prompt": {"metadata": json.dumps(CAT.to_json())},
    "another tag": {"tag": "colors"},
    "malformed metadata": {"metadata": "{}"},
    "details of a list": {"details": "[]"},
    "boxes of text": {"details": '{"dog": [["0", 0, 1, 1, 1]]}'},
    "boxes of three": {"details": '{"dog": [[0, 0, 1]]}'},
    "a box of true": {"details": '{"dog": [[0, 0, 1, 1, true]]}'},
    "a box without end": {"details": '{"dog": [[0, 0, 1, 1, 1e99]]}'},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_result_is_named(name: str, tmp_path: Path) -> None:
    good = results((DOG, "+"))[0].to_json()
    lines = [json.dumps(value) for value in (good, good | MALFORMED[name], good)]
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    with pytest.raises(InvalidInput) as caught:
        read_results(tmp_path / "results.jsonl")
    assert all(problem.startswith("line 2: ") for problem in caught.value.problems)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match="cannot write"):
        write_results(tmp_path / "missing" / "results.jsonl", results((DOG, "+")))
    (tmp_path / "taken").mkdir()
    with pytest.raises(MissingResource, match="cannot write"):
        write_results(tmp_path / "taken", results((DOG, "+")))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_scores_by_hand() -> None:
    summary = summarise(results((DOG, "++++"), (CAT, "+---"), (RED, "----")), resamples=1000)
    assert {tag: interval.value for tag, interval in summary.tasks.items()} == {"single_object": 5 / 8, "colors": 0}
    assert summary.overall.value == 5 / 16  # of tasks; of pictures it would be 5 / 12
    assert summary.images.value == pytest.approx(5 / 12)
    assert summary.prompts.value == pytest.approx(2 / 3)
    assert summary.prompts == wilson(2, 3)
    assert (summary.pictures, summary.overall.n, summary.tasks["single_object"].n) == (12, 3, 2)


def test_the_order_of_results_means_nothing() -> None:
    some = results((DOG, "+-+"), (CAT, "--"), (RED, "+"))
    assert summarise(some[::-1], resamples=200).overall == summarise(some, resamples=200).overall


def test_a_prompt_is_its_metadata(tmp_path: Path) -> None:
    again = GenEvalTask("single_object", "a dog", (Clause("dog", 2),))
    scores = prompt_scores(results((DOG, "+-"), (again, "-"), (DOG, "+")))
    assert [(score.right, score.images) for score in scores] == [(2, 3), (0, 1)]


def test_a_summary_is_json() -> None:
    value = summarise(results((DOG, "+"), (RED, "-")), resamples=200).to_json()
    assert json.loads(json.dumps(value))["tasks"]["colors"]["n"] == 1
    with pytest.raises(InvalidInput, match="no results"):
        summarise([])

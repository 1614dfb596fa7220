"""Heavy mode: voting, verifying and reading trajectories again."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.agent.attempt import Attempt, quick
from conformance.agent.families import chase, proof, repair
from conformance.agent.heavy import Reader, fuse, normalised, trajectories, verify, vote
from conformance.agent.messages import Call, Reply, Request, calls_of
from conformance.agent.misbehaving import Stopper
from conformance.agent.simulated import Oracle, noisy
from conformance.agent.tasks import Task
from k2ref.errors import InputError


def test_the_vote_takes_the_most_frequent_answer_and_the_first_of_equals() -> None:
    assert vote(["SUM 1", "SUM 2", " sum  2. ", "SUM 3"]) == "SUM 2"
    assert vote(["b", "a", "a", "b"]) == "b"
    assert vote([]) == ""
    assert normalised("`SUM  2`\n") == "sum 2"


def test_verify_takes_the_first_answer_that_passes_and_else_the_vote() -> None:
    assert verify(["1", "2", "4", "6"], [False, False, True, True]) == "4"
    assert verify(["1", "1", "2"], [False, None, False]) == "1"


def attempts(count: int) -> tuple[Task, list[Attempt]]:
    task = chase.make("heavy", 20)

    def one(index: int) -> Attempt:
        return quick(task, noisy(task.policy, f"h{index}", 0.05))

    return task, trajectories(one, count, parallel=4)


def test_trajectories_come_back_in_their_order() -> None:
    _, parallel = attempts(8)
    _, serial = attempts(8)
    assert [a.run.answer for a in parallel] == [a.run.answer for a in serial]


def test_an_aggregate_is_judged_by_the_tasks_own_outcome() -> None:
    task, found = attempts(8)
    heavy = fuse(task, found, "vote")
    assert heavy.right == (normalised(heavy.chosen) == normalised(task.answer))
    assert heavy.pass_at_k == any(heavy.solved)
    assert not heavy.pass_hat_k
    with pytest.raises(InputError, match="chase has no public check"):
        fuse(task, found, "verify")


@pytest.mark.parametrize("make", [proof.make, repair.make])
def test_verify_takes_a_trajectory_that_passes_the_public_check(make: Callable[..., Task]) -> None:
    task = make("heavy", 16)
    oracle = Oracle(task.policy)
    models = [Stopper(oracle, 4), Stopper(oracle, 6), oracle]
    found = [quick(task, model) for model in models]
    assert [a.checked for a in found][::2] == [False, True]
    heavy = fuse(task, found, "verify")
    assert heavy.right
    assert heavy.chosen == found[2].run.answer


@pytest.mark.parametrize("family", [chase.make, proof.make])
def test_a_reader_of_all_trajectories_says_what_the_vote_says(
    family: Callable[..., Task], tmp_path: Path
) -> None:
    for seed in "abc":
        task = family(seed, 12)
        found = [quick(task, noisy(task.policy, f"{seed}{i}", 0.08)) for i in range(6)]
        voted, read = (
            fuse(task, found, "vote"),
            fuse(task, found, "agent", model=Reader(6), folder=tmp_path / seed),
        )
        assert normalised(read.chosen) == normalised(voted.chosen)
        assert read.right == voted.right


def never(request: Request) -> Reply:
    raise AssertionError("the model was asked again")


def test_an_agent_reads_the_trajectories_and_answers_once_more(tmp_path: Path) -> None:
    task, found = attempts(6)
    right = next(i for i, a in enumerate(found, 1) if a.verdict.outcome)

    def reader(request: Request) -> Reply:
        """Read the attempts one by one, then give the answer of one that is known to be right."""
        opened = sum(len(calls_of(m)) for m in request.messages)
        if opened < right:
            args = json.dumps({"id": f"corpus/attempt{opened + 1}.md"})
            return Reply("", "", (Call(f"functions.open:{opened}", "open", args),))
        text = request.messages[-1]["content"]
        return Reply(text.split("Answer\n")[1].splitlines()[0].partition("\t")[2])

    heavy = fuse(task, found, "agent", model=reader, folder=tmp_path / "fusion")
    assert heavy.right
    assert heavy.chosen == task.answer
    documents = sorted(path.name for path in (tmp_path / "fusion" / "world" / "corpus").iterdir())
    assert documents == [f"attempt{i}.md" for i in range(1, 7)]
    text = (tmp_path / "fusion" / "world" / "corpus" / "attempt1.md").read_text()
    assert "STATE" not in text  # reasoning stays out
    assert all(call.result.text.splitlines()[0] in text for call in found[0].run.calls)
    again = fuse(task, found, "agent", model=never, folder=tmp_path / "fusion")
    assert again.chosen == heavy.chosen  # its record is there
    assert quick(task, Oracle(task.policy)).verdict.passed

"""Weights are read ahead and let go, within a limit, without changing a result."""

from pathlib import Path

import numpy as np
import pytest

from k2ref import Checkpoint, Model
from k2ref.cli import main
from k2ref.errors import InputError
from k2ref.shards import Entry
from k2ref.streaming import AHEAD, Residency, following


class Noted:
    """Maps that note what is fetched and dropped."""

    def __init__(self) -> None:
        self.fetched: list[int] = []
        self.dropped: list[int] = []

    def fetch(self, entry: Entry) -> None:
        self.fetched.append(entry.start)

    def drop(self, entry: Entry) -> None:
        self.dropped.append(entry.start)


def entry(start: int, nbytes: int = 10) -> Entry:
    return Entry(Path("shard"), "BF16", (nbytes // 2,), start, nbytes)


def test_the_tensor_asked_for_earliest_makes_room() -> None:
    maps = Noted()
    residency = Residency(maps, 30)  # type: ignore[arg-type]
    for start in (1, 2, 3, 1, 4):
        residency.ask(entry(start))
    assert maps.fetched == [1, 2, 3, 4]
    assert maps.dropped == [2]  # 1 had been asked for again
    residency.ask(entry(5, nbytes=20))
    assert maps.dropped == [2, 3, 1]
    assert (residency.held_bytes, residency.asked_bytes) == (30, 60)


def test_without_a_limit_nothing_is_dropped() -> None:
    maps = Noted()
    residency = Residency(maps)  # type: ignore[arg-type]
    for start in range(100):
        residency.ask(entry(start))
    assert maps.dropped == []


def test_the_experts_after_this_one_are_read_ahead() -> None:
    assert following((2, 5, 7, 9), 2) == [5, 7]
    assert following((2, 5, 7, 9), 9) == []


def least(directory: Path) -> int:
    with pytest.raises(InputError, match="memory limit must be at least") as refusal:
        Checkpoint(directory, memory_bytes=1)
    return int(str(refusal.value).split("at least ")[1].split()[0])


@pytest.mark.parametrize("form", ["int4", "bf16"])
def test_a_limit_is_kept_and_changes_no_result(tiny_dirs, form) -> None:
    limit = least(tiny_dirs[form])
    bounded = Checkpoint(tiny_dirs[form], memory_bytes=limit)
    most = 0

    def watch(name: str, array: np.ndarray, /) -> None:
        nonlocal most
        most = max(most, bounded.residency.held_bytes)

    ids_T = np.array([3, 1, 4, 1, 5])
    logits_TW = Model(bounded).forward(ids_T, trace=watch)
    free = Checkpoint(tiny_dirs[form])
    np.testing.assert_array_equal(logits_TW, Model(free).forward(ids_T))
    assert 0 < most <= limit < free.residency.held_bytes
    assert limit == (1 + AHEAD) * free._largest_part()


def test_only_experts_that_are_used_are_asked_for(tiny_dirs) -> None:
    checkpoint = Checkpoint(tiny_dirs["int4"])
    experts = checkpoint.experts(1, [2, 3, 8])
    experts[2]
    parts = [checkpoint._parts[f"model.layers.1.mlp.experts.{n}"] for n in (2, 3, 8)]
    held = set(checkpoint.residency._held)
    assert {*parts[1], *parts[2]} <= held <= {*parts[0], *parts[1], *parts[2]}


def test_a_head_is_read_by_rows_and_once(tiny_dirs) -> None:
    checkpoint = Checkpoint(tiny_dirs["int4"])
    blocks = list(checkpoint.row_blocks("lm_head.weight", 40))
    np.testing.assert_array_equal(np.concatenate(blocks), checkpoint["lm_head.weight"])
    assert [len(block) for block in blocks] == [40, 40, 16]
    assert checkpoint.residency.asked_bytes == checkpoint["lm_head.weight"].nbytes


@pytest.mark.parametrize(("text", "message"), [("8X", "bytes like 8G"), ("1K", "at least")])
def test_a_limit_that_makes_no_sense_is_refused(tiny_dirs, tmp_path, capsys, text, message) -> None:
    arguments = ["forward", str(tiny_dirs["int4"]), "--ids", "1", "--memory", text]
    try:
        code = main([*arguments, "--logits", str(tmp_path / "l.npy")])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_limit_is_given_in_units(tiny_dirs, tmp_path) -> None:
    arguments = ["forward", str(tiny_dirs["int4"]), "--ids", "1,2", "--memory", "64M"]
    assert main([*arguments, "--logits", str(tmp_path / "l.npy")]) == 0

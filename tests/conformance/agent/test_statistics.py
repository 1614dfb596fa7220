"""Horizons, survival and comparisons on sets of runs with known values."""

import math

import pytest

from conformance.agent.attempt import quick
from conformance.agent.axes import grid
from conformance.agent.families import chase, ledger
from conformance.agent.plots import Line, Point, svg
from conformance.agent.scaling import (
    Trial,
    by_length,
    compare,
    hazards,
    horizon,
    kaplan_meier,
    pareto,
    within,
)
from conformance.agent.simulated import noisy
from conformance.agent.sweep import INSTRUMENT, Sweep, overlay, read, row_of
from k2ref.errors import InputError


def points(rate: float, lengths: tuple[int, ...]) -> list[Point]:
    return [Point(n, (1 - rate) ** n, 0, 1) for n in lengths]


def test_a_horizon_lies_where_the_known_curve_crosses() -> None:
    curve = points(0.01, tuple(range(1, 301)))
    for level in (0.5, 0.8):
        length, sign = horizon(curve, level)
        assert sign == ""
        assert length == pytest.approx(math.log(level) / math.log(0.99), rel=2e-3)


def test_a_horizon_beyond_the_lengths_tried_is_a_bound() -> None:
    assert horizon(points(0.0, (10, 300)), 0.5) == (300, ">")
    assert horizon(points(0.5, (10, 300)), 0.5) == (10, "<")


def test_success_within_a_budget_grows_to_the_success_without_one() -> None:
    trials = [Trial(f"t{i}", 10, i % 2 == 0, i, 100 * i, i / 10, i / 100) for i in range(1, 11)]
    steps = within(trials, "steps", [2, 4, 10])
    assert [p.y for p in steps] == [0.1, 0.2, 0.5]
    assert by_length(trials)[0].y == 0.5
    assert [p.y for p in within(trials, "cost", [0.02, 0.1])] == [0.1, 0.5]


def test_intervals_are_exact() -> None:
    low = by_length([Trial(f"t{i}", 1, True, 1, 1, 1, 1) for i in range(1958)])[0].low
    assert low == pytest.approx(0.9981, abs=1e-4)  # 1958 of 1958 shows at least 99.81 %


def test_the_comparison_is_the_exact_test_of_mcnemar() -> None:
    first = {f"t{i}": i < 15 for i in range(20)} | {"only here": True}
    second = {f"t{i}": i < 5 or i >= 18 for i in range(20)}
    found = compare(first, second)
    assert found[:4] == (5, 10, 2, 3)
    assert found.p_value == pytest.approx(2 * (1 + 12 + 66) / 2**12)


def test_no_setting_on_the_front_is_beaten() -> None:
    rows = {"cheap": (0.5, 1.0), "dear": (0.9, 9.0), "worse": (0.4, 2.0), "same": (0.5, 1.0)}
    assert pareto(rows) == ["cheap", "dear", "same"]


def test_survival_counts_runs_that_ended_early_as_long_as_they_lasted() -> None:
    curve = kaplan_meier([2, None, 4, None], [5, 3, 5, 5])
    assert [(s.step, round(s.share, 4)) for s in curve] == [(2, 0.75), (4, 0.375)]
    assert all(s.low <= s.share <= s.high for s in curve)
    assert hazards([2, None, 4, None], [5, 3, 5, 5], 3) == [1 / 11, 1 / 3]


def test_a_sweep_keeps_its_rows_and_says_when_it_is_simulated() -> None:
    tasks = [chase.make(f"s{i}", n) for n in (10, 40) for i in range(6)]
    model = "simulated noisy:0.03"
    runs = [quick(task, noisy(task.policy, task.seed, 0.03)) for task in tasks]
    found = Sweep(tuple(row_of(t, r, model) for t, r in zip(tasks, runs, strict=True)))
    assert read(found.csv()).trials == found.trials
    plots = found.plots("noisy")
    assert "check of the instrument" in plots["success_by_length.svg"]
    assert set(plots) == {f"success_by_{m}.svg" for m in ("length", "steps", "tokens", "seconds")}
    assert found.summary()[-1].startswith("H80")
    assert INSTRUMENT in overlay([found, found], "two")
    real = Sweep(tuple({**row, "model": "kimi-k2-thinking"} for row in found.rows))
    assert INSTRUMENT not in real.plots("real")["success_by_length.svg"]
    row = found.rows[0]
    assert row["efficiency"] == 1.0
    assert row["prompt_tokens"] == found.trials[0].tokens - int(str(row["completion_tokens"]))


def swept(setting: str, p: float) -> list[dict[str, object]]:
    tasks = [ledger.make(f"s{i}", 20) for i in range(6)]
    runs = [quick(task, noisy(task.policy, task.seed, p)) for task in tasks]
    return [row_of(t, r, "simulated x", setting) for t, r in zip(tasks, runs, strict=True)]


def test_a_sweep_over_settings_has_a_line_for_each_and_a_front() -> None:
    found = Sweep((*swept("steps=30", 0.0), *swept("steps=10", 0.3)))
    lines = found.summary()
    assert "steps=30: n=20: 1.00 [0.54, 1.00]" in lines
    assert any(line.startswith("steps=10: errors per index, in bands of 50: 0.") for line in lines)
    assert [line.split(",")[0] for line in lines if line.startswith("front: ")] == [
        "front: steps=30"
    ]
    plots = found.plots("two settings")
    assert {"front.svg", "accuracy_by_index.svg", "survival.svg"} < set(plots)
    assert "steps=30" in plots["success_by_length.svg"]
    assert found.trials[0].task != found.trials[6].task


def test_accuracy_by_index_is_the_share_of_right_indices() -> None:
    row = swept("", 0.0)[0]
    found = Sweep(({**row, "by_index": "1101"}, {**row, "by_index": "1011"}))
    assert [(p.x, p.y) for p in found.accuracy()] == [(1, 1.0), (2, 0.5), (3, 0.5), (4, 1.0)]
    assert read(found.csv()).accuracy() == found.accuracy()
    long = Sweep(({**row, "by_index": "1" * 30 + "0" * 30},))
    assert len(long.accuracy()) == 20
    assert [p.y for p in long.accuracy()][9:11] == [1.0, 0.0]


def test_axes_multiply_and_heavy_counts_share_their_runs() -> None:
    settings = grid(["steps=10,30", "keep-last=0,3", "heavy=1,8"])
    assert [dict(s.flags) for s in settings] == [
        {"steps": a, "keep_last": b} for a in (10, 30) for b in (0, 3)
    ]
    assert settings[0].name(8) == "steps=10 keep_last=0 heavy=8"
    assert grid([])[0].name(1) == ""
    for wrong in ("step=1", "steps=x", "heavy=0", "steps"):
        with pytest.raises(InputError, match="an axis is NAME=V1,V2"):
            grid([wrong])


def test_a_plot_is_the_same_each_time_and_escapes_its_words() -> None:
    line = Line("a < b", [Point(1, 0.5, 0.4, 0.6), Point(2, 0.25, 0.2, 0.3)])
    one = svg("t & t", "x", "y", [line])
    assert one == svg("t & t", "x", "y", [line])
    assert "a &lt; b" in one
    assert "t &amp; t" in one

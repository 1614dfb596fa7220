"""Horizons, survival and comparisons on sets of runs with known values."""

import math

import pytest

from conformance.agent.attempt import quick
from conformance.agent.families import chase
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
from conformance.agent.sweep import INSTRUMENT, Sweep, overlay, read, run


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
    found = run(tasks, lambda task: quick(task, noisy(task.policy, task.seed, 0.03)), model)
    assert read(found.csv()).trials == found.trials
    plots = found.plots("noisy")
    assert "check of the instrument" in plots["success_by_length.svg"]
    assert set(plots) == {f"success_by_{m}.svg" for m in ("length", "steps", "tokens", "seconds")}
    assert found.summary()[-1].startswith("H80")
    assert INSTRUMENT in overlay([found, found], "two")
    real = Sweep(tuple({**row, "model": "kimi-k2-thinking"} for row in found.rows))
    assert INSTRUMENT not in real.plots("real")["success_by_length.svg"]
    row = found.rows[0]
    assert row["prompt_tokens"] == found.trials[0].tokens - int(str(row["completion_tokens"]))


def test_a_plot_is_the_same_each_time_and_escapes_its_words() -> None:
    line = Line("a < b", [Point(1, 0.5, 0.4, 0.6), Point(2, 0.25, 0.2, 0.3)])
    one = svg("t & t", "x", "y", [line])
    assert one == svg("t & t", "x", "y", [line])
    assert "a &lt; b" in one
    assert "t &amp; t" in one

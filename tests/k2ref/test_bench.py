"""The benchmark's tables, on sizes that tell nothing about speed."""

import argparse
import json

import llvmlite.binding
import numpy as np
import pytest

from k2ref import bench, bench_native, bench_peers, bench_race, bench_tables, oracle
from k2ref.errors import InputError

KEYS = {"shape", "threads", "gbps", "read_gbps", "ratio", "rel_error", "activations", "peer"}


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    sizes = {
        "SHAPES": ((32, 128), (12, 64)),
        "D": 64,
        "F": 32,
        "E": 6,
        "K": 2,
        "READ_BYTES": 1 << 18,
        "MATRICES": 2,
        "TOKENS": (1, 3),
        "POSITIONS": (20, 40),
        "HEADS": (2, 8, 16, 8, 32),
        "SGEMM": (8, 8, 8),
        "DIFFERENT": 2,
    }
    for name, size in sizes.items():
        monkeypatch.setattr(bench_tables, name, size)
    monkeypatch.setattr(bench_race, "apart", bench_race.run_race)


@bench_peers.each
def half(codes_ML: np.ndarray, scale_MG: np.ndarray, threads: int) -> bench_peers.Product:
    """Prepare a product that rounds activations to float16."""
    packed_MP = oracle.int4_pack(codes_ML)
    return lambda x_1L: oracle.int4_linear(
        x_1L.astype(np.float16).astype(np.float32), packed_MP, scale_MG
    )


def half_experts(experts: list[oracle.Expert], threads: int) -> bench_native.Products:
    """Prepare the sum of experts, of activations rounded to float16."""
    return lambda x_1D: [
        sum(oracle.expert_ffn(x_1D.astype(np.float16).astype(np.float32), e) for e in experts)
    ]


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    bench.add_bench_command(parser.add_subparsers(required=True))
    options = parser.parse_args(["bench", "--turns", "2", *arguments])
    options.run(options)


def test_every_table_is_printed_written_and_drawn(tmp_path, capsys, monkeypatch) -> None:
    peers = (
        bench_peers.Peer("half", (), half),
        bench_peers.Peer("other", ("no_such_package",), half),
    )
    monkeypatch.setattr(bench_peers, "PEERS", peers)
    monkeypatch.setattr(
        bench_peers, "EXPERT_PEERS", (bench_peers.Peer("halves", (), half_experts),)
    )
    figures, picture = tmp_path / "f.json", tmp_path / "f.png"
    run("--tokens", "5", "--json", str(figures), "--plot", str(picture))
    tables = json.loads(figures.read_text(encoding="utf-8"))
    rows = tables["int4_one_token"]
    assert all(set(row) == KEYS for row in rows)
    assert {(row["peer"], row["activations"]) for row in rows} == {
        ("", "float32"),
        ("", "bfloat16"),
        ("half", "float32"),
    }
    assert {row["shape"] for row in rows} == {"32x128", "12x64"}
    assert all(row["rel_error"] < 1e-6 for row in rows if not row["peer"])
    assert all(1e-5 < row["rel_error"] < 1e-2 for row in rows if row["peer"])
    experts = tables["int4_experts"]
    assert all(set(row) == KEYS for row in experts)
    assert {(row["peer"], row["shape"]) for row in experts} == {
        ("", "2 experts 32x128"),
        ("halves", "2 experts 32x128"),
    }
    exact = [not row["peer"] and row["activations"] == "float32" for row in experts]
    assert [row["rel_error"] < 1e-6 for row in experts] == exact
    assert all(row["rel_error"] < 2e-2 for row in experts)
    assert [row["tokens"] for row in tables["int4_tokens"]] == [1, 3, 1, 3]
    assert [row["weights"] for row in tables["other_weights_one_token"]] == ["bf16", "fp8"]
    layer = tables["moe_layer"][0]
    assert layer["experts"] <= 6
    parts = [layer[f"{part}_seconds"] for part in ("unpacking", "multiplying", "gathering")]
    assert sum(parts) == pytest.approx(layer["seconds"])
    assert parts[1] > 0
    assert [row["positions"] for row in tables["attention_decode"]] == [20, 40]
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "int4 one token" in printed
    assert "skipped other: not installed: no_such_package" in printed


def test_a_table_can_be_asked_for_alone(capsys) -> None:
    run("--only", "forms", "--no-peers")
    printed = capsys.readouterr().out
    assert "other weights" in printed
    assert "int4" not in printed


def test_times_are_taken_in_turns() -> None:
    order: list[str] = []
    works = [lambda: order.append("a"), lambda: order.append("b")]
    seconds = bench_tables.in_turns(works, 3)
    assert order == ["a", "b"] * 4  # once to wake up
    assert [len(times) for times in seconds] == [3, 3]


def test_reading_once_sums_every_value() -> None:
    kernels = bench_tables.load_kernels()
    values = np.ones((3, kernels._machine.STRIPE // 4), np.float32)
    assert kernels._machine.read_once(values) == values.size


RACE = bench_race.Race("", 1, 1, (32, 128), 2, False, 1 << 18)
apart = bench_race.apart


def test_a_race_in_a_process_of_its_own_gives_a_row() -> None:
    row = apart(RACE)
    assert set(row) == KEYS
    assert (row["shape"], row["threads"]) == ("32x128", 1)


def test_a_race_writes_its_row(tmp_path) -> None:
    answer = tmp_path / "row.json"
    bench_race.main([json.dumps(RACE), str(answer)])
    assert set(json.loads(answer.read_text(encoding="utf-8"))) == KEYS


@pytest.mark.parametrize(("seconds", "reason"), [(600, "k2ref: ValueError"), (0, "no end after")])
def test_a_race_that_fails_says_why(monkeypatch, seconds, reason) -> None:
    monkeypatch.setattr(bench_race, "SECONDS", seconds)
    with pytest.raises(InputError, match=reason):
        apart(RACE._replace(shape=(32, 100)))


def test_others_run_when_one_fails(monkeypatch, capsys) -> None:
    def fail(race: bench_race.Race) -> bench_tables.Row:
        if race.threads == 1:
            raise InputError("broken")
        return bench_race.run_race(race)

    monkeypatch.setattr(bench_race, "apart", fail)
    run("--only", "experts", "--no-peers")
    assert "failed broken" in capsys.readouterr().out


@pytest.mark.peer
@pytest.mark.parametrize("peer", bench_peers.PEERS, ids=lambda peer: peer.name)
def test_a_peer_multiplies_the_same_matrix(peer) -> None:
    if lacking := bench_peers.missing(peer):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    random = np.random.default_rng(1)
    weight = bench_tables.draw_int4(random, 64, 256)
    x_1L = random.standard_normal((1, 256), np.float32)
    codes_ML = oracle.int4_unpack(weight.packed_MP, 256)
    products = peer.prepare([(codes_ML, weight.scale_MG.astype(np.float32))] * 2, 1)
    right = oracle.multiply(x_1L.astype(np.float64), weight)
    limit = 1e-6 if "f32" in peer.name else 2e-2
    for product in products(x_1L):
        assert np.abs(product - right).max() < limit * np.abs(right).max()


@pytest.mark.peer
@pytest.mark.parametrize("peer", bench_peers.EXPERT_PEERS, ids=lambda peer: peer.name)
def test_a_peer_runs_the_same_experts(peer) -> None:
    if lacking := bench_peers.missing(peer):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    if "KGroup" in peer.name and not llvmlite.binding.get_host_cpu_features()["avx512f"]:
        pytest.skip("this kernel of kt-kernel needs AVX-512")
    row = apart(RACE._replace(peer=peer.name, shape=(128, 256), matrices=8, experts=True))
    assert row["rel_error"] < 3e-2

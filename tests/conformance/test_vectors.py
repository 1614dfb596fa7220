"""The frozen vectors: whole, rebuilt from their seed, told twice, each with a bug it sees."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from conformance import textbook, vectors
from conformance.__main__ import main
from conformance.calls import ANSWERS
from conformance.cases import all_cases
from conformance.spec import requirements, vectors_id
from k2ref import oracle
from k2ref.spec import spec_path

FOLDER = spec_path("vectors")


def test_the_files_are_what_the_manifest_says() -> None:
    assert vectors.broken_files(FOLDER) == []
    listed = set(json.loads((FOLDER / "manifest.json").read_text())["files"]) | {"manifest.json"}
    assert {p.name for p in FOLDER.iterdir()} == listed


def told_kills() -> dict[str, list[str]]:
    cases = (c for op in textbook.OPERATIONS for c in vectors.read(FOLDER, op))
    return {c["id"]: c["kills"] for c in cases}


def test_the_files_hold_what_the_generator_makes(tmp_path: Path) -> None:
    vectors.build(tmp_path / "v", kills=told_kills())
    assert vectors.differences(FOLDER, tmp_path / "v") == []


@pytest.mark.slow
def test_every_vector_sees_the_bugs_it_claims_to_see() -> None:
    assert vectors.killed_by(all_cases(0)) == told_kills()


def test_they_stay_small() -> None:
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 5_000_000


@pytest.mark.parametrize("seed", [0, 31])
def test_a_second_implementation_says_the_same(seed: int) -> None:
    assert max(vectors.cross_check(case) for case in all_cases(seed)) < 1e-14


def test_the_second_implementation_imports_nothing_of_the_first() -> None:
    source = Path(textbook.__file__).read_text(encoding="utf-8")
    assert "import numpy" not in source
    assert "k2ref" not in source
    offered = {op for op in oracle.OPERATIONS if op not in ("dense", "multiply")}
    assert set(textbook.OPERATIONS) == offered
    assert set(ANSWERS) <= offered


def test_every_requirement_of_operations_has_a_vector_that_sees_a_bug() -> None:
    cases = [c for op in textbook.OPERATIONS for c in vectors.read(FOLDER, op)]
    seen = {c["requirement"] for c in cases if c["kills"]}
    blind = {"fp8:block-scales", "fp8:product", "linear:out-in", "act:softmax", "route:logits"}
    blind |= {"rope:amplitude", "norm:formula"}
    wanted = {c["requirement"] for c in cases if c["result"] == "required"}
    assert wanted - seen <= blind
    assert wanted <= set(requirements())


def test_a_changed_number_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "v"
    other.mkdir()
    for path in FOLDER.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    text = (other / "silu.json").read_text().replace("0.7310585786300049", "0.7410585786300049")
    (other / "silu.json").write_text(text)
    assert "silu-special: expected/out differs" in vectors.differences(FOLDER, other)
    assert main(["vectors", "verify", str(other)]) == 1
    assert "silu.json: its SHA-256 is not the manifest's" in capsys.readouterr().out
    assert main(["vectors", "diff", str(FOLDER), str(FOLDER)]) == 0
    assert main(["vectors", "build", str(FOLDER)]) == 2


def test_the_golden_word_of_the_format_is_in_the_files() -> None:
    case = next(c for c in vectors.read(FOLDER, "int4_unpack") if c["id"].endswith("all-codes"))
    assert case["inputs"]["packed_MP"].view(np.uint32).tolist() == [[0x76543210, 0xFEDCBA98]]
    assert case["expected"]["out"].tolist() == [list(range(-8, 8))]


def test_the_name_of_the_vectors_is_the_hash_of_their_manifest() -> None:
    digest = hashlib.sha256((FOLDER / "manifest.json").read_bytes()).hexdigest()
    assert vectors_id() == digest

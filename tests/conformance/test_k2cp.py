"""The protocol k2cp/1: real clients in C and JavaScript, and clients that misbehave."""

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from conformance.adapters import lines
from conformance.adapters.k2cp import SubprocessEngine
from conformance.adapters.messages import flatten, output_names
from conformance.checks.laws import MODEL_LAWS, check_model_laws
from conformance.engine import EngineError, NotOffered
from k2ref import oracle
from k2ref.oracle import Expert, Int4

EXAMPLES = Path(__file__).parents[2] / "conformance/examples"


def compile_c(folder: Path) -> str:
    if (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
        pytest.skip("no C compiler (cc or gcc)")
    warnings = ["-Wall", "-Wextra", "-Werror"]
    source, target = str(EXAMPLES / "engine.c"), str(folder / "engine")
    subprocess.run(
        [compiler, "-std=c11", "-O2", *warnings, "-o", target, source, "-lm"], check=True
    )
    return target


def node() -> str:
    if shutil.which("node") is None:
        pytest.skip("no node")
    return f"node {EXAMPLES / 'engine.mjs'}"


@pytest.fixture(scope="module", params=["c", "javascript"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    command = compile_c(tmp_path_factory.mktemp("c")) if request.param == "c" else node()
    engine = SubprocessEngine(command)
    yield engine
    engine.close()


def test_a_client_without_python_unpacks_int4_exactly(client: SubprocessEngine) -> None:
    codes_ML = np.tile(np.arange(-8, 8), (3, 5))[:, :75]
    packed_MP = oracle.int4_pack(codes_ML)
    np.testing.assert_array_equal(client.operation("int4_unpack")(packed_MP, 75), codes_ML)


@pytest.mark.parametrize("group_size", [32, 64])
def test_a_client_without_python_multiplies_int4(client: SubprocessEngine, group_size: int) -> None:
    random = np.random.default_rng(1)
    x_TL = random.standard_normal((2, 96)).astype(np.float32)
    packed_MP = oracle.int4_pack(random.integers(-8, 8, (5, 96)))
    scale_MG = random.random((5, -(-96 // group_size))).astype(ml_dtypes.bfloat16)
    found = client.operation("int4_linear")(x_TL, packed_MP, scale_MG, group_size=group_size)
    w_ML = oracle.int4_dequantize(packed_MP, scale_MG, 96, group_size=group_size)
    bound_TM = 98 * 2.0**-24 * (np.abs(x_TL.astype(float)) @ np.abs(w_ML.T))  # Higham's gamma
    assert (np.abs(found - x_TL.astype(float) @ w_ML.T) <= bound_TM).all()


def test_a_client_without_python_normalises(client: SubprocessEngine) -> None:
    x_TD = np.full((2, 64), 1e-3, np.float32)
    found = client.operation("rms_norm")(x_TD, np.ones(64, np.float32), 1e-6)
    np.testing.assert_allclose(found, 0.70710678, rtol=4e-7)  # a few roundings to float32


def test_a_client_without_python_routes(client: SubprocessEngine) -> None:
    logits_TE = np.array([[0, np.log(3), -np.log(3), 0]], np.float32)
    bias_E = np.array([0, 0, 0.6, 0.001], np.float32)
    routing = client.operation("route")(logits_TE, bias_E, top_k=2, scale=2.827)
    assert routing.experts_TK.tolist() == [[2, 1]]
    np.testing.assert_allclose(routing.weights_TK, [[0.70675, 2.12025]], rtol=1e-6)


def test_what_a_client_does_not_offer_is_a_skip(client: SubprocessEngine) -> None:
    assert client.operation("attend_absorbed") is None
    assert client.load(Path("anywhere")) is None
    one_E = np.zeros(8, np.float32)
    with pytest.raises(NotOffered):
        client.operation("route")(one_E[None], one_E, top_k=2, scale=1.0, n_group=2)


def test_nested_arguments_are_flattened_with_dots() -> None:
    int4 = Int4(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), 32, 8)
    arrays, scalars = flatten({"expert": Expert(int4, int4, np.zeros((2, 2))), "fill": -np.inf}, "")
    assert sorted(arrays)[0] == "expert.down"
    assert "expert.gate.packed_MP" in arrays
    assert scalars["expert.gate.group_size"] == 32
    assert scalars["fill"] == "-inf"


def test_results_have_the_names_of_the_docstring() -> None:
    assert output_names("route") == ["experts_TK", "weights_TK"]
    assert output_names("rms_norm") == ["out_TD"]
    assert output_names("rotate") == ["out"]


HELLO = '{"name": "bad", "version": "1", "precision": "f32", "ops": ["silu"], "forward": true}'


@pytest.fixture
def misbehaving(tmp_path: Path) -> Iterator[object]:
    """Make an engine that greets properly and then runs the given code for each question."""
    engines: list[SubprocessEngine] = []

    def make(code: str, hello: str = HELLO) -> SubprocessEngine:
        loop = f"""
            import json, os, struct, sys, time
            def say(text): sys.stdout.write(text); sys.stdout.flush()
            for line in sys.stdin:
                question = json.loads(line)
                if question["cmd"] == "hello":
                    say({'{"result": ' + hello + "}"!r} + chr(10))
                    continue
        """
        body = textwrap.dedent(loop) + textwrap.indent(textwrap.dedent(code), "    ")
        path = tmp_path / f"engine{len(engines)}.py"
        path.write_text(body)
        engines.append(SubprocessEngine(f"{sys.executable} {path}", timeout_s=5))
        engines[-1]._lines.timeout_s = 0.5
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.abort()", "died at op silu, signal SIGABRT"),
        ("sys.stderr.write('out of memory'); sys.exit(7)", "exit code 7; it said: out of memory"),
        ("time.sleep(60)", "no answer to op silu within 0.5 s"),
        ("say('{\"resu'); sys.exit(0)", "in the middle of an answer"),
        ("say('hello world' + chr(10))", "is not JSON"),
        ("say('[]' + chr(10))", "must be an object"),
        ("say('{}' + chr(10) + '{}' + chr(10))", "2 lines instead of one"),
        ("say('{\"done\": 1}' + chr(10))", "must have result, skipped or errored"),
        ("say('{\"result\": {}}' + chr(10))", "not a whole safetensors file"),
        ("say('x' * (2 << 20))", "exceeds"),
        (
            "open(question['outputs'], 'wb').write(struct.pack('<Q', 999) + b'{'); "
            "say('{\"result\": {}}' + chr(10))",
            "not a whole safetensors file",
        ),
        (
            "open(question['outputs'], 'wb').write(struct.pack('<Q', 2) + b'{}'); "
            "say('{\"result\": {}}' + chr(10))",
            "silu must return out, found no array",
        ),
        ('say(\'{"errored": {"message": "no such kernel"}}\' + chr(10))', "no such kernel"),
    ],
)
def test_misbehaviour_is_the_engines_error(misbehaving, code: str, message: str) -> None:
    engine = misbehaving(code)
    with pytest.raises(EngineError, match=message):
        engine.operation("silu")(np.ones(3, np.float32))


def test_the_question_after_a_crash_gets_a_fresh_process(misbehaving) -> None:
    engine = misbehaving("os.abort()")
    for _ in range(2):
        with pytest.raises(EngineError, match="SIGABRT"):
            engine.operation("silu")(np.ones(3, np.float32))
    assert engine._lines.starts == 2


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        ('{"name": "x"}', "hello must say version, precision, ops"),
        ('{"name": "x", "version": 1, "precision": "int3", "ops": []}', "precision must be one of"),
        ('{"name": "x", "version": 1, "precision": "f32", "ops": ["fly"]}', "no operation fly"),
    ],
)
def test_a_wrong_greeting_is_refused(misbehaving, hello: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        misbehaving("pass", hello)


def test_a_command_that_does_not_exist_is_named() -> None:
    with pytest.raises(EngineError, match="cannot start no-such-program"):
        SubprocessEngine("no-such-program")


CACHING = """
import json, sys
from safetensors.numpy import load_file, save_file
from k2ref import Checkpoint, Model
caches = {}
for line in sys.stdin:
    asked, result = json.loads(line), {}
    if asked["cmd"] == "hello":
        result = {"name": "c", "version": "1", "precision": "f32", "ops": [], "forward": True}
        result["cache"] = CACHE
    elif asked["cmd"] == "load":
        model = Model(Checkpoint(asked["directory"]))
    elif asked["cmd"] == "forward":
        given = load_file(asked["inputs"])
        cache = caches.setdefault(asked.get("cache"), model.new_cache())
        cache = cache if "cache" in asked else None
        logits_TW = model.forward(given["ids_T"], given["position_T"], cache=cache)
        save_file({"logits_TW": logits_TW}, asked["outputs"])
    print(json.dumps({"result": result}), flush=True)
"""


@pytest.mark.parametrize(("offered", "verdict"), [(True, "pass"), (False, "skipped")])
def test_a_cache_in_another_process_is_continued_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: bool, verdict: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parents[1]))
    client = tmp_path / "client.py"
    client.write_text(CACHING.replace("CACHE", str(offered)))
    engine = SubprocessEngine(f"{sys.executable} {client}")
    laws = [law for law in MODEL_LAWS if law.number in (43, 44)]
    try:
        results = list(check_model_laws(engine, seed=1, laws=laws))
    finally:
        engine.close()
    assert {r.verdict.value for r in results} == {verdict}


def test_an_engine_that_always_hangs_is_waited_for_less_and_less(
    misbehaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "SHORT_S", 0.1)
    engine = misbehaving("time.sleep(60)")
    for wait_s in (0.5, 0.5, 0.5, 0.1):
        with pytest.raises(EngineError, match=f"no answer to op silu within {wait_s} s"):
            engine.operation("silu")(np.ones(3, np.float32))

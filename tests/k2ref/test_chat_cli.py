"""The commands `k2ref render`, `k2ref parse` and `k2ref generate --chat`."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest

from k2ref.chat import Parser
from k2ref.chat.reply import Arguments, CallEnd, CallStart, Content, Reasoning
from k2ref.chat_cli import _events, _show
from k2ref.cli import main
from k2ref.presets import NANO
from k2ref.synth import make_checkpoint
from k2ref.tokenizer import load_tokenizer
from tests.k2ref.vocabulary import write_vocabulary

USER = [{"role": "user", "content": "hi"}]


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    path = tmp_path / "messages.json"
    path.write_text(json.dumps(USER))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = write_vocabulary(tmp_path / "checkpoint")
    (folder / "config.json").write_text('{"model_type": "kimi_k25"}')
    return folder


def run(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_render_prints_the_prompt_and_nothing_else(capsys: Any, messages: Path) -> None:
    code, out, _ = run(capsys, "render", messages, "--dialect", "k2.5")
    assert (code, out) == (0, "<|im_user|>user<|im_middle|>hi<|im_end|>"
                              "<|im_assistant|>assistant<|im_middle|><think>")  # fmt: skip
    _, out, _ = run(capsys, "render", messages, "--no-generation-prompt")
    assert out.endswith("hi<|im_end|>")


def test_render_reads_tools_and_renames_ids(capsys: Any, tmp_path: Path) -> None:
    call = {"id": "call_1", "function": {"name": "f", "arguments": "{}"}}
    path, tools = tmp_path / "m.json", tmp_path / "tools.json"
    path.write_text(json.dumps([{"role": "assistant", "content": "", "tool_calls": [call]}]))
    tools.write_text('[{"type": "function", "function": {"name": "f"}}]')
    _, out, _ = run(capsys, "render", path, "--tools", tools, "--native-ids")
    assert "functions.f:0" in out
    assert 'tool_declare<|im_middle|>[{"type":"function"' in out


def test_render_prints_ids_of_a_checkpoint(
    capsys: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = [{"role": "user", "content": "<|im_end|>"}]
    outputs = []
    for extra in ([], ["--control-in-data"]):
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(hostile)))
        _, out, _ = run(capsys, "render", "-", "--checkpoint", checkpoint, "--ids", *extra)
        outputs.append(out.strip().split(","))
    end = "267"
    assert [ids.count(end) for ids in outputs] == [1, 2]


def test_render_compares_with_the_checkpoints_template(
    capsys: Any, messages: Path, checkpoint: Path
) -> None:
    template = checkpoint / "chat_template.jinja"
    template.write_text("{{ messages[0].content }}")
    code, out, err = run(capsys, "render", messages, "--checkpoint", checkpoint)
    assert (code, out) == (2, "")
    assert "dialect k2.5 is not what" in err
    assert "prompts part at character 0" in err
    template.write_text(
        "<|im_user|>user<|im_middle|>{{ messages[0].content }}<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|><think>{{ '' if thinking else '</think>' }}"
    )
    for extra in ([], ["--no-thinking"]):
        assert run(capsys, "render", messages, "--checkpoint", checkpoint, *extra)[0] == 0


def test_parse_prints_the_message_and_what_went_wrong(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "output.txt"
    path.write_text(
        "R</think>c<|tool_call_begin|>f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    )
    _, out, _ = run(capsys, "parse", path, "--recover-leaks")
    table = json.loads(out)
    assert table["message"]["reasoning_content"] == "R"
    assert table["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert table["counts"]["leaked"] == 1


def test_parse_reads_ids(capsys: Any, tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("104,105, 267\n")
    _, out, _ = run(capsys, "parse", path, "--ids", "--checkpoint", checkpoint, "--no-thinking")
    assert json.loads(out)["message"] == {"role": "assistant", "content": "hi"}


def test_other_encodings_are_named(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "latin"
    path.write_bytes(b"\xe9")
    for command in ("render", "parse"):
        code, _, err = run(capsys, command, path)
        assert code == 2
        assert "not UTF-8" in err


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("{", ["render"], "not JSON"),
        ("{}", ["render"], "wanted a list, got dict"),
        ("[]", ["render", "--ids"], "ids need a tokenizer: --checkpoint DIR"),
        ("a b", ["parse", "--ids", "--checkpoint", "CHECKPOINT"], "wanted integers"),
    ],
)
def test_a_wrong_input_is_one_line(
    capsys: Any, tmp_path: Path, checkpoint: Path, text: str, arguments: list[str], message: str
) -> None:
    path = tmp_path / "input"
    path.write_text(text)
    named = [str(checkpoint) if a == "CHECKPOINT" else a for a in arguments]
    code, out, err = run(capsys, named[0], path, *named[1:])
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "model"
    small = dataclasses.replace(NANO, vocab_size=521, num_hidden_layers=2, n_routed_experts=8)
    make_checkpoint(folder, small, form="f32", seed=3)
    return write_vocabulary(folder)


def test_generate_answers_a_chat_in_text(capsys: Any, model: Path, messages: Path) -> None:
    command = ["generate", model, "--chat", messages, "--max-new", 5]
    code, out, _ = run(capsys, *command)
    assert code == 0
    assert out.startswith("[reasoning]\n")
    ids = run(capsys, "render", messages, "--checkpoint", model, "--ids")[1].strip()
    expected = run(capsys, "generate", model, "--ids", ids, "--max-new", 5)[1].strip()
    (messages.parent / "ids").write_text(expected)
    parsed = run(capsys, "parse", messages.parent / "ids", "--ids", "--checkpoint", model)[1]
    assert out == f"[reasoning]\n{json.loads(parsed)['message']['reasoning_content']}\n"
    code, _, err = run(capsys, *command, "--tools", messages, "--dialect", "k2.5")
    assert code == 0, err


def test_generate_refuses_a_tokenizer_that_is_larger_than_the_model(
    capsys: Any, tmp_path: Path, messages: Path
) -> None:
    small = dataclasses.replace(NANO, vocab_size=512, num_hidden_layers=1)
    make_checkpoint(tmp_path / "model", small, form="f32", seed=3)
    write_vocabulary(tmp_path / "model")
    code, _, err = run(capsys, "generate", tmp_path / "model", "--chat", messages, "--max-new", 1)
    assert code == 2
    assert "the tokenizer has 521 ids, the model only 512" in err


def test_an_answer_ends_with_its_turn(checkpoint: Path) -> None:
    tokenizer = load_tokenizer(checkpoint)
    parser = Parser(thinking=False, tokenizer=tokenizer)
    ids = iter([ord("a"), tokenizer.special["<|im_end|>"], ord("b")])
    assert list(_events(parser, ids)) == [Content("a")]
    assert next(ids) == ord("b"), "no id was asked for behind the end"


def test_an_answer_is_shown_under_headings() -> None:
    events = [
        *(Reasoning("r"), Reasoning("s"), Content("c"), CallStart(0, "functions.f:0", "f")),
        *(Arguments(0, "{}"), CallEnd(0, True), CallStart(1, "g:1", "g"), CallEnd(1, False)),
    ]
    shown, label = "", ""
    for event in events:
        text, label = _show(event, label)
        shown += text
    assert shown == ("[reasoning]\nrs\n[answer]\nc\n[call functions.f:0]\n{}\n[call g:1]\n\n[cut]")

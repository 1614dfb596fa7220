"""k2ref/chat/render.py: the prompts of spec/chat, and what holds for every conversation."""

import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2ref.chat import DIALECTS, K2_INSTRUCT, K2_THINKING, K25, K27_CODE, render, render_reply
from k2ref.chat.dialect import dialect_of, find_dialect
from k2ref.errors import InputError
from k2ref.tokenizer import Tokenizer, load_tokenizer
from tests.k2ref.chat_strategies import call, conversations, rounds, texts
from tests.k2ref.vocabulary import cases, real_folder, write_vocabulary

PROMPTS = cases("prompts")
ALL = [K2_INSTRUCT, K2_THINKING, K25, K27_CODE]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_vocabulary(tmp_path_factory.mktemp("small")))


def rendered(case: dict[str, Any]) -> Any:
    dialect = find_dialect(case["dialect"])
    return render(case["messages"], case.get("tools"), dialect=dialect, **case.get("options", {}))


@pytest.mark.parametrize("case", PROMPTS, ids=lambda case: case["id"])
def test_a_prompt_is_that_of_the_spec(case: dict[str, Any]) -> None:
    if case["result"] == "invalid":
        with pytest.raises(InputError):
            rendered(case)
    else:
        assert rendered(case).text == case["prompt"]


def test_the_ids_of_all_prompts_are_those_of_the_spec() -> None:
    real = load_tokenizer(real_folder())
    for case in PROMPTS:
        if case["result"] != "invalid":
            prompt = rendered(case)
            assert prompt.ids(real) == case["ids"], case["id"]
            if "wrong_ids" in case:
                assert prompt.ids(real, control_in_data=True) == case["wrong_ids"]


@given(st.data(), st.sampled_from([K2_INSTRUCT, K2_THINKING, K25]), st.booleans())
def test_a_prompt_only_grows_inside_a_tool_loop(data: Any, dialect: Any, thinking: bool) -> None:
    messages = [{"role": "user", "content": data.draw(texts)}]
    prompts = [render(messages, dialect=dialect, thinking=thinking).text]
    for _ in range(3):
        count = sum(len(m.get("tool_calls", ())) for m in messages)
        messages = messages + data.draw(rounds(count))
        prompts.append(render(messages, dialect=dialect, thinking=thinking).text)
    for before, after in itertools.pairwise(prompts):
        assert after.startswith(before)


@given(conversations(), st.sampled_from(ALL))
def test_data_never_becomes_a_control_token(messages: list[dict[str, Any]], dialect: Any) -> None:
    base = {name: 256 + n for n, name in enumerate(SPECIALS)}
    tokenizer = Tokenizer({bytes([n]): n for n in range(256)}, base)
    prompt = render(messages, dialect=dialect)
    expected = [p.text for p in prompt.pieces if p.control and p.text in base]
    ids = prompt.ids(tokenizer)
    assert [tokenizer.names[n] for n in ids if n in tokenizer.names] == expected
    assert tokenizer.decode(ids) == prompt.text
    turns = len(messages) + 1 + (bool(dialect.default_system) and not starts_with_system(messages))
    assert sum(tokenizer.names.get(n) == "<|im_middle|>" for n in ids) == turns


SPECIALS = [*cases("control_tokens")[0]["names"]]


def starts_with_system(messages: list[dict[str, Any]]) -> bool:
    return bool(messages) and messages[0]["role"] == "system"


def test_unregistered_tags_are_encoded_with_their_neighbours(small: Tokenizer) -> None:
    special = {k: v for k, v in small.special.items() if "think" not in k}
    without = Tokenizer(small.ranks, special)
    message = {"role": "assistant", "content": "hello"}
    ids = render_reply(message).ids(without)
    assert ids == [*without.encode("<think></think>hello"), special["<|im_end|>"]]


def test_a_reply_follows_its_generation_prompt() -> None:
    message = {"role": "assistant", "content": "c", "reasoning_content": "r"}
    assert render_reply(message).text == "<think>r</think>c<|im_end|>"
    assert render_reply(message, dialect=K25).text == "r</think>c<|im_end|>"
    plain = {"role": "assistant", "content": "c"}
    assert render_reply(plain, dialect=K25, thinking=False).text == "c<|im_end|>"
    assert render_reply(plain, dialect=K2_INSTRUCT).text == "c<|im_end|>"
    with pytest.raises(InputError, match="does not think"):
        render_reply(message, dialect=K25, thinking=False)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["role", "content", "tool_calls", "id", "function", "name", "arguments",
                         "type", "text", "tool_call_id", "reasoning_content"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
nearly = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
    optional=dict.fromkeys(["content", "tool_calls", "tool_call_id", "name"], json_values),
)


@given(st.lists(json_values | nearly, max_size=3), st.lists(json_values, max_size=2))
def test_any_json_is_rendered_or_refused_with_a_sentence(messages: Any, tools: Any) -> None:
    for dialect in ALL:
        with contextlib.suppress(InputError):
            assert isinstance(render(messages, tools, dialect=dialect).text, str)


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ({"role": "user", "content": 1}, "content must be text or a list of parts, got 1"),
        ({"role": "user", "content": ["a"]}, "got 'a' in the list"),
        ({"role": "user", "name": 1}, "name must be text, got 1"),
        ({"role": "assistant", "content": "Dear", "partial": True}, "how partial is continued"),
        ({"role": "assistant", "reasoning": 1}, r"reasoning must be text, got \[1\]"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(message: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        render([message])


def test_an_empty_content_part_list_is_nothing() -> None:
    assert render([{"role": "user", "content": []}]) == render([{"role": "user", "content": None}])


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ('{"model_type": "kimi_k25", "text_config": {}}', "k2.5"),
        (
            '{"model_type": "kimi_k2", "quantization_config": {"quant_method": "fp8"}}',
            "k2-instruct",
        ),
        ('{"model_type": "kimi_k2"}', "k2-thinking"),
    ],
)
def test_a_checkpoint_tells_its_dialect(tmp_path: Any, config: str, name: str) -> None:
    (tmp_path / "config.json").write_text(config)
    assert dialect_of(tmp_path).name == name


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_is_named(tmp_path: Any, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: (not a readable|wanted a JSON object)"):
        dialect_of(tmp_path)


def test_k3_and_unknown_dialects_are_refused(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "kimi_k3"}')
    with pytest.raises(InputError, match="another chat format"):
        dialect_of(tmp_path)
    with pytest.raises(InputError, match=r"there are k2-instruct, k2-thinking, k2\.5"):
        find_dialect("k9")
    assert DIALECTS["k2.6"] is K25


def test_a_call_keeps_its_arguments_byte_for_byte() -> None:
    message = {"role": "assistant", "content": "", "tool_calls": [call("f", 0, '{"a":1,  "b":2}')]}
    assert '{"a":1,  "b":2}' in render([message]).text

"""k2ref/chat/parse.py: the outputs of spec/chat, and what holds however a stream is cut."""

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2ref.chat import K2_INSTRUCT, K2_THINKING, K25, Parser, Reply, merge, parse, render_reply
from k2ref.chat.lexer import MARKERS
from k2ref.chat.reply import Content, Event, Reasoning
from k2ref.chat.wire import call_name
from k2ref.tokenizer import Tokenizer
from tests.k2ref.chat_strategies import call, cut, names, texts
from tests.k2ref.vocabulary import cases

NAMES = [*cases("control_tokens")[0]["names"]]
BYTES = {bytes([n]): n for n in range(256)}
TOKENIZER = Tokenizer(BYTES, {name: 256 + n for n, name in enumerate(NAMES)})
WITHOUT_THINK = Tokenizer(BYTES, {k: v for k, v in TOKENIZER.special.items() if "think" not in k})
MODES = {"text": None, "ids": TOKENIZER, "ids-without-think": WITHOUT_THINK}


def output_of(case: dict[str, Any], mode: str) -> str | list[int]:
    """Write the output of a case as text or as ids."""
    segments = case["output"]
    if mode == "text":
        return "".join(s if isinstance(s, str) else s["control"] for s in segments)
    tokenizer = MODES[mode]
    assert tokenizer is not None
    ids: list[int] = []
    for s in segments:
        ids += tokenizer.encode(s) if isinstance(s, str) else [tokenizer.special[s["control"]]]
    return ids


def as_table(reply: Reply, like: dict[str, Any]) -> dict[str, Any]:
    """Write a reply as spec/chat does, with the counts that a case mentions."""
    calls = [asdict(c) for c in reply.calls]
    for c in calls:
        if not c["recovered"]:
            del c["recovered"]
    table = {"reasoning": reply.reasoning, "content": reply.content, "calls": calls}
    if "counts" in like:
        table["counts"] = {k: v for k, v in asdict(reply.counts).items() if v}
    return table


CASES = [(c, m) for c in cases("parses") for m in c.get("modes", ["text", "ids"])]


@pytest.mark.parametrize(
    ("case", "mode"), CASES, ids=lambda v: v if isinstance(v, str) else v["id"]
)
def test_an_output_is_read_as_the_spec_says(case: dict[str, Any], mode: str) -> None:
    options = case.get("options", {})
    reply = parse(output_of(case, mode), tokenizer=MODES[mode], **options)
    assert as_table(reply, case["expected"]) == case["expected"]


@pytest.mark.parametrize(
    ("case", "mode"), CASES, ids=lambda v: v if isinstance(v, str) else v["id"]
)
def test_an_engine_may_end_before_the_stop_token(case: dict[str, Any], mode: str) -> None:
    segments = case["output"]
    stops = [
        n for n, s in enumerate(segments) if s in ({"control": "<|im_end|>"}, {"control": "[EOS]"})
    ]
    if case["id"] == "prose-im-end" or not stops:
        return
    test_an_output_is_read_as_the_spec_says({**case, "output": segments[: stops[0]]}, mode)


@pytest.mark.parametrize(
    ("case", "mode"), CASES, ids=lambda v: v if isinstance(v, str) else v["id"]
)
def test_an_output_may_open_the_tag_itself(case: dict[str, Any], mode: str) -> None:
    if case.get("options", {}).get("thinking", True) and mode != "ids-without-think":
        output = [{"control": "<think>"}, *case["output"]]
        test_an_output_is_read_as_the_spec_says({**case, "output": output}, mode)


def events_of(pieces: list[str], **options: Any) -> tuple[list[Event], Parser]:
    parser = Parser(**options)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merge(events + parser.finish()), parser


TEXTS = [(c, output_of(c, "text")) for c, mode in CASES if mode == "text"]


@pytest.mark.parametrize(
    ("case", "text"), TEXTS, ids=lambda v: v["id"] if isinstance(v, dict) else ""
)
def test_no_cut_of_an_output_of_the_spec_changes_its_events(
    case: dict[str, Any], text: str
) -> None:
    options = case.get("options", {})
    whole, parser = events_of([text], **options)
    everywhere = [[text[:n], text[n:]] for n in range(0, len(text), 1 + len(text) // 300)]
    for pieces in [*everywhere, list(text)]:
        events, other = events_of(pieces, **options)
        assert (events, other.counts) == (whole, parser.counts)


outputs = st.lists(
    st.one_of(
        st.sampled_from(MARKERS),
        st.sampled_from(
            ["functions.f:0", "3", " ", "\n", "{}", '{"a":"b"}', "<|tool_call", "hello"]
        ),
        st.text(alphabet="<|_tool/think>[EOS] é\n", max_size=6),
    ),
    max_size=12,
).map("".join)


@given(st.data(), outputs, st.booleans(), st.booleans())
def test_no_cut_of_any_output_changes_its_events(
    data: Any, text: str, thinking: bool, recover: bool
) -> None:
    options = {"thinking": thinking, "recover_leaks": recover}
    whole, parser = events_of([text], **options)
    events, other = events_of(data.draw(cut(text)), **options)
    assert (events, other.counts, other.thought) == (whole, parser.counts, parser.thought)


@given(st.data(), outputs, st.booleans())
def test_no_cut_between_ids_changes_the_events(data: Any, text: str, recover: bool) -> None:
    ids = TOKENIZER.encode(text, control=True)
    place = data.draw(st.integers(0, len(ids)))
    results = []
    for pieces in ([ids], [ids[:place], ids[place:]], [[n] for n in ids]):
        parser = Parser(tokenizer=TOKENIZER, recover_leaks=recover)
        events = [event for piece in pieces for event in parser.feed_ids(piece)]
        results.append((merge(events + parser.finish()), parser.counts))
    assert results[0] == results[1] == results[2]


arguments = st.one_of(texts.filter(str.strip), st.just('{"a":1,  "b":"\\u00e9"}'))


@st.composite
def replies(draw: st.DrawFn, *, thinks: bool = True) -> dict[str, Any]:
    """Draw an assistant message as a model may produce it."""
    message: dict[str, Any] = {"role": "assistant", "content": draw(texts)}
    if thinks:
        message["reasoning_content"] = draw(texts)
    calls = [
        call(name, n, draw(arguments))
        for n, name in enumerate(draw(st.lists(names, max_size=3)))
    ]  # fmt: skip
    return message | ({"tool_calls": calls} if calls else {})


@given(replies(), st.sampled_from([K2_THINKING, K25]))
def test_parsing_a_rendered_reply_gives_it_back(message: dict[str, Any], dialect: Any) -> None:
    ids = render_reply(message, dialect=dialect).ids(TOKENIZER)
    reply = parse(ids, tokenizer=TOKENIZER)
    assert reply.message() == message
    assert not any(asdict(reply.counts).values())


@given(replies(thinks=False))
def test_parsing_a_rendered_reply_without_thinking_gives_it_back(message: dict[str, Any]) -> None:
    ids = render_reply(message, dialect=K2_INSTRUCT).ids(TOKENIZER)
    assert parse(ids, thinking=False, tokenizer=TOKENIZER).message() == message


def plain(text: str) -> bool:
    return not any(mark in text for mark in "<[")


@given(replies())
def test_the_text_of_a_reply_without_markers_is_enough(message: dict[str, Any]) -> None:
    fields = [message["content"], message["reasoning_content"]]
    fields += [c["function"]["arguments"] for c in message.get("tool_calls", ())]
    if all(map(plain, fields)):
        assert parse(render_reply(message).text).message() == message


@given(outputs, st.booleans())
def test_nothing_leaks_between_fields_by_id(text: str, recover: bool) -> None:
    ids = TOKENIZER.encode(text, control=True)
    reply = parse(ids, tokenizer=TOKENIZER, recover_leaks=recover)
    for field in (reply.reasoning or "", reply.content, *(c.arguments for c in reply.calls)):
        spelled = TOKENIZER.encode(field, control=True)
        assert not set(spelled) & set(TOKENIZER.names), "a control token became text"


@given(outputs)
def test_every_letter_is_said_once_or_counted(text: str) -> None:
    reply = parse(text)
    said = (reply.reasoning or "") + reply.content + "".join(c.arguments for c in reply.calls)
    if not reply.calls and not any(m in text for m in MARKERS):
        assert said == text


@given(st.text(alphabet="abc <|", max_size=40))
def test_text_is_held_back_only_while_it_may_be_a_marker(text: str) -> None:
    parser = Parser(thinking=False)
    said = "".join(e.text for c in text for e in parser.feed(c) if isinstance(e, Content))
    held = text[len(said) :]
    assert text.startswith(said)
    assert any(m.startswith(held) for m in MARKERS)


def test_a_long_stream_is_parsed_in_linear_time_and_small_pieces() -> None:
    parser = Parser()
    head = (
        '<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"'
    )
    parser.feed("x</think>" + head)
    deltas = [len(parser.feed("ab")) for _ in range(50_000)]
    assert set(deltas) == {1}
    assert parser.feed('"<|tool_call_end|>')[-1].complete  # type: ignore[union-attr]


def test_events_say_where_a_reply_stands() -> None:
    parser = Parser()
    assert parser.feed("R</thi") == [Reasoning("R")]
    assert parser.feed("nk>c") == [Content("c")]
    assert parser.finish() == []
    assert parser.feed("more") == []


def test_an_endless_header_is_given_up() -> None:
    ids = TOKENIZER.encode("</think><|tool_calls_section_begin|><|tool_call_begin|>", control=True)
    reply = parse([*ids, *TOKENIZER.encode("x" * 300)], tokenizer=TOKENIZER)
    assert (reply.counts.malformed, reply.calls) == (1, ())


def test_a_parser_of_ids_needs_a_tokenizer() -> None:
    with pytest.raises(TypeError, match="needs a tokenizer"):
        Parser().feed_ids([1])


def test_a_message_leaves_out_what_is_not_whole() -> None:
    reply = parse(
        '</think><|tool_calls_section_begin|><|tool_call_begin|>3<|tool_call_argument_begin|>{"a'
    )
    assert "tool_calls" not in reply.message()
    assert parse("R").message(reasoning_field="reasoning")["reasoning"] == "R"


@pytest.mark.parametrize("case", [c for c in cases("ids") if "tool_id" in c], ids=lambda c: c["id"])
def test_the_name_in_an_id(case: dict[str, Any]) -> None:
    assert call_name(case["tool_id"]) == case["name"]

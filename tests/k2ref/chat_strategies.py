"""Hypothesis strategies for conversations, with hostile text among the harmless."""

from typing import Any

from hypothesis import strategies as st

from k2ref.chat.lexer import MARKERS

letters = st.text(alphabet="ab \n<>&'\"|é北👩{}[]:_/", max_size=10)
hostile = st.lists(
    st.sampled_from([*MARKERS, "<|im_system|>", "<|im_middle|>", "x", " "]), max_size=4
)
texts = st.one_of(letters, hostile.map("".join))
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
arguments = st.one_of(
    st.dictionaries(letters, st.one_of(texts, st.integers(), st.none()), max_size=3),
    st.just('{"a":1,  "b":"\\u00e9"}'),
)


def call(name: str, index: int, arguments: Any = "{}") -> dict[str, Any]:
    """Make a tool call with its native id."""
    function = {"name": name, "arguments": arguments}
    return {"id": f"functions.{name}:{index}", "type": "function", "function": function}


@st.composite
def rounds(draw: st.DrawFn, first: int = 0) -> list[dict[str, Any]]:
    """Draw one step of a tool loop: an assistant message with calls, and their answers."""
    drawn = draw(st.lists(st.tuples(names, arguments), min_size=1, max_size=3))
    calls = [call(name, first + n, value) for n, (name, value) in enumerate(drawn)]
    message = {"role": "assistant", "content": draw(texts), "tool_calls": calls}
    message["reasoning_content"] = draw(texts)
    answers = [
        {"role": "tool", "tool_call_id": c["id"], "content": draw(texts)}
        for c in draw(st.permutations(calls))
    ]
    return [message, *answers]


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw a conversation: turns of a user, loops with tools, plain answers."""
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(texts)})
    for _ in range(draw(st.integers(0, 3))):
        messages.append({"role": "user", "content": draw(texts)})
        for _ in range(draw(st.integers(0, 2))):
            messages += draw(rounds(sum(len(m.get("tool_calls", ())) for m in messages)))
        if draw(st.booleans()):
            answer = {"role": "assistant", "content": draw(texts)}
            if draw(st.booleans()):
                answer["reasoning_content"] = draw(texts)
            messages.append(answer)
    return messages


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Cut a text anywhere: text -> its pieces."""
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]

"""Tool calls that leaked as text into reasoning or content.

Some engines fail to parse a call and hand out its markers as text (vybestack/llxprt-code#749,
cline/cline#12979). A leak is always counted; it becomes a call only when that was asked for.
"""

import re
from dataclasses import replace

from conformance.agent.messages import Call, Reply

MARKER = "<|tool_call_begin|>"
SECTION = re.compile(r"<\|tool_calls?_section_begin\|>")
CALL = re.compile(
    r"<\|tool_call_begin\|>\s*(?:functions\.)?([A-Za-z_][\w\-]*)(?::\d+)?\s*"
    r"<\|tool_call_argument_begin\|>\s*(.*?)\s*(?:<\|tool_call_end\|>|\Z)",
    re.DOTALL,
)


def has_leak(reply: Reply) -> bool:
    """Tell whether a call's marker stands in the reply's text."""
    return MARKER in (reply.reasoning or "") or MARKER in reply.content


def recovered(reply: Reply, first: int) -> Reply:
    """Turn leaked calls into calls and cut their text off; real calls of the reply stay."""
    texts = [reply.reasoning or "", reply.content]
    found = [match for text in texts for match in CALL.findall(text)]
    calls = tuple(
        Call(f"functions.{name}:{first + len(reply.calls) + offset}", name, arguments)
        for offset, (name, arguments) in enumerate(found)
    )
    reasoning, content = (_before(text) for text in texts)
    return replace(
        reply,
        reasoning=None if reply.reasoning is None else reasoning,
        content=content,
        calls=reply.calls + calls,
        finish="tool_calls" if calls else reply.finish,
    )


def _before(text: str) -> str:
    start = SECTION.search(text) or re.search(re.escape(MARKER), text)
    return text[: start.start()] if start else text

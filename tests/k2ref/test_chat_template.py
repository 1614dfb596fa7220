"""k2ref/chat/template.py: our prompts against templates, run as Hugging Face runs them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2ref.chat import K2_INSTRUCT, K2_THINKING, K25, render
from k2ref.chat.template import find_template, first_difference, render_template
from k2ref.errors import InputError
from tests.k2ref.chat_strategies import conversations

# The rules of the prompts written a second time, in the language of the published files.
TEMPLATE = """\
{%- macro text(c) -%}
{%- if c is string -%}{{ c }}{%- elif c -%}{%- for p in c -%}{{ p.text }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- macro calls(m) -%}
{%- if m.tool_calls -%}<|tool_calls_section_begin|>
{%- for c in m.tool_calls -%}
<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>
{%- set a = c.function.arguments -%}{{ a if a is string else a | tojson }}<|tool_call_end|>
{%- endfor -%}<|tool_calls_section_end|>{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(plain=-1) -%}
{%- if not preserve_thinking -%}{%- for m in messages -%}
{%- if m.role == 'assistant' and not m.tool_calls -%}{%- set ns.plain = loop.index0 -%}{%- endif -%}
{%- endfor -%}{%- endif -%}
{%- if tools -%}<|im_system|>tool_declare<|im_middle|>
{{- tools_ts_str if tools_ts_str else tools | tojson(separators=(',', ':')) -}}
<|im_end|>{%- endif -%}
{%- if SYSTEM and (not messages or messages[0].role != 'system') -%}
<|im_system|>system<|im_middle|>{{ SYSTEM }}<|im_end|>{{ AFTER }}{%- endif -%}
{%- for m in messages -%}
{%- set marker = {'user': 'user', 'assistant': 'assistant'}.get(m.role, 'system') -%}
<|im_{{ marker }}|>{{ m.name or m.role }}<|im_middle|>
{%- if m.role == 'assistant' and THINKS -%}
{%- set keep = loop.index0 > ns.plain and not (OPENS and not thinking and not preserve_thinking) -%}
<think>{{ m.reasoning_content or '' if keep else '' }}</think>{%- endif -%}
{%- if m.role == 'tool' -%}## Return of {{ m.tool_call_id }}{{ '\\n' }}{%- endif -%}
{{- text(m.content) }}{{ calls(m) if m.role == 'assistant' }}<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>
{%- if OPENS %}<think>{{ '' if thinking else '</think>' }}{% endif -%}{%- endif -%}
"""


def template_of(dialect: Any) -> str:
    """Write the template of a dialect."""
    values = {
        "SYSTEM": dialect.default_system,
        "AFTER": dialect.after_default_system,
        "THINKS": dialect.thinks,
        "OPENS": dialect.opens_think,
    }
    heads = [f"{{%- set {name} = {value!r} -%}}\n" for name, value in values.items()]
    return "".join(heads).replace("None", "none") + TEMPLATE.rstrip("\n")


tools = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {
                    "name": st.just("f"),
                    "parameters": st.just(
                        {"type": "object", "properties": {"é": {"type": "string"}}}
                    ),
                }
            ),
        }
    ),
    max_size=2,
)


@given(conversations(), tools, st.sampled_from([K2_INSTRUCT, K2_THINKING, K25]), st.booleans(),
       st.booleans(), st.booleans())  # fmt: skip
def test_a_prompt_equals_what_a_template_makes(
    messages: Any, tools: Any, dialect: Any, thinking: bool, keep: bool, opening: bool
) -> None:
    choices = {"dialect": dialect, "thinking": thinking, "generation_prompt": opening}
    if dialect is K25:
        choices["preserve_thinking"] = keep
    theirs = render_template(template_of(dialect), messages, tools, **choices)
    assert first_difference(render(messages, tools, **choices).text, theirs) is None


def test_tools_without_a_form_in_typescript_reach_a_template_as_json() -> None:
    tools = [{"function": {"name": "f", "parameters": {"properties": {"a": {"title": "t"}}}}}]
    tools[0]["type"] = "function"  # type: ignore[assignment]
    theirs = render_template(template_of(K25), [], tools, dialect=K25)
    assert '"title":"t"' in theirs
    assert render([], tools, dialect=K25).text == theirs


def test_null_reasoning_never_reaches_a_template() -> None:
    message = {"role": "assistant", "content": "", "reasoning_content": None, "reasoning": "R"}
    source = "{{ messages[0].get('reasoning_content', 'absent') }}"
    assert render_template(source, [message], dialect=K2_THINKING) == "R"
    message["reasoning"] = None
    assert render_template(source, [message], dialect=K2_THINKING) == "absent"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no') }}", "the chat template fails: no"),
        ("{{ messages.append(1) }}", "the chat template fails: .*unsafe"),
        ("{% if %}", "the chat template fails"),
        ("{{ 1 + 'a' }}", "the chat template fails"),
        ("{{ ''.__class__.__mro__ }}", "the chat template fails: .*unsafe"),
    ],
)
def test_a_template_that_fails_is_one_clear_error(template: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        render_template(template, [], dialect=K2_THINKING)


def test_a_difference_is_shown_with_what_stands_around_it() -> None:
    assert first_difference("abc", "abc") is None
    assert first_difference("ab\nc", "ab\nd") == (
        'prompts part at character 3: rendered "ab\\nc", the template "ab\\nd"'
    )
    assert "at character 2" in str(first_difference("ab", "abc"))


def test_a_template_is_a_file_or_a_key_of_the_tokenizer(tmp_path: Path) -> None:
    assert find_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "b"}))
    assert find_template(tmp_path) == "b"
    (tmp_path / "chat_template.jinja").write_text("a")
    assert find_template(tmp_path) == "a"

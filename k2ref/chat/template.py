"""A checkpoint's own chat template, rendered as Hugging Face does, to compare with `render`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from k2ref.chat.dialect import Dialect
from k2ref.chat.render import compact, sort_keys, typescript
from k2ref.chat.wire import REASONING_FIELDS, Message, reasoning_of
from k2ref.errors import InputError
from k2ref.tables import read_json
from k2ref.tokenizer import NAMES_FILE


def find_template(folder: Path) -> str | None:
    """Read the chat template of a checkpoint: folder -> text, or None if it has none."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    names = folder / NAMES_FILE
    table = read_json(names) if names.is_file() else {}
    template = table.get("chat_template")
    return template if isinstance(template, str) else None


def render_template(
    template: str,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    dialect: Dialect,
    thinking: bool = True,
    preserve_thinking: bool | None = None,
    generation_prompt: bool = True,
) -> str:
    """Render a template with what the official tokenizer hands it: template, messages -> text.

    Reasoning goes in under both of its names, and not at all where it is None: a template prints
    None as text.

    Raises:
        InputError: the template fails, or does what the sandbox forbids.
    """
    keep = dialect.preserve_thinking if preserve_thinking is None else preserve_thinking
    tools = sort_keys(list(tools)) if tools and dialect.sort_tool_keys else tools
    values: dict[str, Any] = {"thinking": thinking, "preserve_thinking": keep}
    if tools and dialect.tools == "typescript":
        values["tools_ts_str"] = typescript(tools)
    try:
        return (
            _environment()
            .from_string(template)
            .render(
                messages=[_plain(message) for message in messages],
                tools=tools or None,
                add_generation_prompt=generation_prompt,
                **values,
            )
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise InputError(f"the chat template fails: {error}") from None


def _plain(message: Message) -> dict[str, Any]:
    plain = {key: value for key, value in message.items() if key not in REASONING_FIELDS}
    reasoning = reasoning_of(message)
    return plain if reasoning is None else plain | dict.fromkeys(REASONING_FIELDS, reasoning)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> None:
    raise TemplateError(message)


def first_difference(ours: str, theirs: str) -> str | None:
    """Say where two prompts part: ours, theirs -> a sentence, or None if they are equal."""
    if ours == theirs:
        return None
    pairs = zip(ours, theirs, strict=False)
    shortest = min(len(ours), len(theirs))
    place = next((n for n, (a, b) in enumerate(pairs) if a != b), shortest)
    window = slice(max(0, place - 20), place + 40)
    return (
        f"prompts part at character {place}: rendered {compact(ours[window])}, "
        f"the template {compact(theirs[window])}"
    )

"""The commands `k2ref render` and `k2ref parse`, and the chat of `k2ref generate`."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from k2ref.chat import DIALECTS, Dialect, Event, Parser, Prompt, native_ids, parse, render
from k2ref.chat.dialect import dialect_of, find_dialect
from k2ref.chat.reply import Arguments, CallEnd, CallStart, Reasoning
from k2ref.chat.template import find_template, first_difference, render_template
from k2ref.errors import InputError
from k2ref.generate import Sampling, generate
from k2ref.model import Model
from k2ref.tokenizer import Tokenizer, load_tokenizer


def add_chat_commands(commands: Any) -> None:
    """Add `render` and `parse` to the command line: subparsers."""
    rendering = commands.add_parser("render", help="messages to the exact prompt of a model")
    rendering.add_argument("messages", help="a JSON file of messages, or - for standard input")
    rendering.add_argument("--checkpoint", type=Path, metavar="DIR", help="tokenizer, template")
    add_chat_options(rendering)
    rendering.add_argument("--no-generation-prompt", action="store_true")
    rendering.add_argument("--ids", action="store_true", help="print ids instead of text")
    rendering.add_argument(
        "--control-in-data",
        action="store_true",
        help="let markers spelled in messages become control tokens (unsafe)",
    )
    rendering.set_defaults(run=run_render)

    parsing = commands.add_parser("parse", help="model output to reasoning, content and tool calls")
    parsing.add_argument("output", help="a file of output, or - for standard input")
    parsing.add_argument("--ids", action="store_true", help="the output is ids: 1,2,3")
    parsing.add_argument("--checkpoint", type=Path, metavar="DIR", help="whose ids they are")
    parsing.add_argument("--no-thinking", action="store_true")
    parsing.add_argument("--recover-leaks", action="store_true", help="calls outside a section")
    parsing.set_defaults(run=run_parse)


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a prompt: parser."""
    parser.add_argument("--tools", type=Path, metavar="F.json", help="tools, as in the chat API")
    parser.add_argument("--dialect", choices=sorted(DIALECTS), help="instead of the checkpoint's")
    parser.add_argument("--no-thinking", action="store_true")
    parser.add_argument("--preserve-thinking", action="store_true", default=None)
    parser.add_argument(
        "--native-ids", action="store_true", help="rename tool ids to functions.NAME:INDEX first"
    )


def run_render(options: argparse.Namespace) -> None:
    """Print a prompt, compared with the checkpoint's own template if there is one: options."""
    prompt = prompt_of(
        options, options.messages, generation_prompt=not options.no_generation_prompt
    )
    if options.ids:
        ids = prompt.ids(_tokenizer(options), control_in_data=options.control_in_data)
        print(",".join(map(str, ids)))
    else:
        sys.stdout.write(prompt.text)


def prompt_of(
    options: argparse.Namespace, messages: str, *, generation_prompt: bool = True
) -> Prompt:
    """Render what the options say: options, file of messages -> Prompt.

    Raises:
        InputError: the prompt is not what the checkpoint's own template makes of it.
    """
    tools = None if options.tools is None else _json_list(str(options.tools))
    given = _json_list(messages)
    given = native_ids(given) if options.native_ids else given
    dialect = _dialect(options)
    choices: dict[str, Any] = {
        "dialect": dialect,
        "thinking": not options.no_thinking,
        "preserve_thinking": options.preserve_thinking,
        "generation_prompt": generation_prompt,
    }
    prompt = render(given, tools, **choices)
    template = find_template(options.checkpoint) if options.checkpoint else None
    if template is not None:
        theirs = render_template(template, given, tools, **choices)
        if difference := first_difference(prompt.text, theirs):
            raise InputError(
                f"dialect {dialect.name} is not what {options.checkpoint} wants: {difference}"
            )
    return prompt


def run_parse(options: argparse.Namespace) -> None:
    """Print a reply as JSON, its message and what went wrong on the way: options."""
    text = _read(options.output)
    tokenizer = _tokenizer(options) if options.ids else None
    reply = parse(
        _ids(text) if options.ids else text,
        thinking=not options.no_thinking,
        recover_leaks=options.recover_leaks,
        tokenizer=tokenizer,
    )
    table = {"message": reply.message(), "counts": asdict(reply.counts)}
    print(json.dumps(table, ensure_ascii=False, indent=2))


def answer(
    options: argparse.Namespace, model: Model, *, max_new: int, sampling: Sampling
) -> Iterator[str]:
    """Answer the messages of `options.chat`: options, model -> text as it comes."""
    options.checkpoint = options.directory
    tokenizer, dialect = _tokenizer(options), _dialect(options)
    if len(tokenizer) > model.config.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} ids, the model only {model.config.vocab_size}"
        )
    ids = prompt_of(options, options.chat).ids(tokenizer)
    parser = Parser(thinking=dialect.thinks and not options.no_thinking, tokenizer=tokenizer)
    label = ""
    for event in _events(
        parser, generate(model, np.array(ids), max_new=max_new, sampling=sampling)
    ):
        text, label = _show(event, label)
        yield text
    yield "\n"


def _events(parser: Parser, ids: Iterable[int]) -> Iterator[Event]:
    for number in ids:
        yield from parser.feed_ids([number])
        if parser.ended:
            break
    yield from parser.finish()


def _show(event: Event, label: str) -> tuple[str, str]:
    """Show an event under a heading, which is not repeated: event, last label -> text, label."""
    match event:
        case CallStart(_, call_id, _, _):
            return f"\n[call {call_id}]\n", "call"
        case Arguments(_, text):
            return text, "call"
        case CallEnd(_, complete):
            return ("" if complete else "\n[cut]"), "call"
    new = "reasoning" if isinstance(event, Reasoning) else "answer"
    heading = "" if new == label else ("\n" if label else "") + f"[{new}]\n"
    return heading + event.text, new


def _dialect(options: argparse.Namespace) -> Dialect:
    if options.dialect:
        return find_dialect(options.dialect)
    return dialect_of(options.checkpoint) if options.checkpoint else find_dialect("k2-thinking")


def _tokenizer(options: argparse.Namespace) -> Tokenizer:
    if options.checkpoint is None:
        raise InputError("ids need a tokenizer: --checkpoint DIR")
    return load_tokenizer(options.checkpoint)


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8: {error}") from None


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise InputError(f"wanted integers like 1,2,3, got {text[:40]!r}") from None


def _json_list(name: str) -> list[Any]:
    text = _read(name)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"{name}: not JSON: {error}") from None
    if not isinstance(value, list):
        raise InputError(f"{name}: wanted a list, got {type(value).__name__}")
    return value

"""What differs between the prompts of K2-Instruct, K2-Thinking, K2.5/K2.6 and K2.7-Code.

Sources: the models' chat templates and tokenizer code as published, and `spec/chat/README.md`
for where each statement was checked.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from k2ref.errors import InputError
from k2ref.tables import child, read_json

KIMI = "You are Kimi, an AI assistant created by Moonshot AI."


@dataclass(frozen=True)
class Dialect:
    """The rules of one generation's prompt."""

    name: str
    default_system: str | None
    """the system message of a conversation that brings none"""
    after_default_system: str
    """what the template leaves behind it: a newline in K2-Instruct"""
    tools: Literal["json", "typescript"]
    sort_tool_keys: bool
    """whether the keys of every object in the tools are sorted first"""
    thinks: bool
    """whether assistant messages carry `<think>…</think>`"""
    opens_think: bool
    """whether the generation prompt already opens `<think>`"""
    preserve_thinking: bool
    """whether reasoning before the last plain answer is kept, unless the caller says otherwise"""
    media_begin: str
    """the marker that the template puts before an image"""


K2_INSTRUCT = Dialect(
    "k2-instruct", KIMI, "\n", "json", True, False, False, False, "<|media_start|>"
)
K2_THINKING = Dialect("k2-thinking", KIMI, "", "json", False, True, False, False, "<|media_start|>")
K25 = Dialect("k2.5", None, "", "typescript", True, True, True, False, "<|media_begin|>")
K27_CODE = Dialect("k2.7-code", None, "", "typescript", True, True, True, True, "<|media_begin|>")

DIALECTS = {d.name: d for d in (K2_INSTRUCT, K2_THINKING, K25, K27_CODE)} | {"k2.6": K25}


def find_dialect(name: str) -> Dialect:
    """Look a dialect up: name -> Dialect."""
    if name not in DIALECTS:
        raise InputError(f"no dialect {name!r}; there are {', '.join(sorted(DIALECTS))}")
    return DIALECTS[name]


def dialect_of(folder: Path) -> Dialect:
    """Tell a checkpoint's dialect from its config.json: folder -> Dialect.

    K2.5, K2.6 and K2.7-Code share a config, and K2-Thinking is the K2 with INT4 experts. A
    checkpoint without weights' quantisation says nothing and counts as K2-Thinking.
    """
    table = read_json(folder / "config.json")
    if table.get("model_type") in ("kimi_k3", "kimi_linear"):
        raise InputError(f"{table['model_type']} has another chat format; this is K2's")
    if table.get("model_type") == "kimi_k25" or "text_config" in table:
        return K25
    method = child(table, "quantization_config").get("quant_method")
    return K2_INSTRUCT if method == "fp8" else K2_THINKING

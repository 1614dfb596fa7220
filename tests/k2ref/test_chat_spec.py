"""The files of spec/chat: shape, ids, and the public bugs that they must name."""

import json
from collections import Counter

import jsonschema
import pytest

from k2ref.spec import spec_path

FILES = ["control_tokens", "tokens", "typescript", "ids", "prompts", "parses", "wire"]

# One line for each public bug of tokenizers, templates, parsers and APIs: any of its threads.
BUGS = {
    "Han regex": ["ggml-org/llama.cpp#14642", "smg-project/smg#1482", "mratsim/tattletale#22"],
    "class intersection": ["crusoecloud/fastokens#18"],
    "ids renumbered": ["huggingface/transformers#45356", "Blaizzy/mlx-vlm#1944"],
    "two stop tokens": ["pegainfer-project/pegainfer#238", "tenstorrent/tt-inference-server#3943"],
    "three causes of 218 in 1286": ["vLLM blog 2025-10-28"],
    "separators and letters": ["ochafik/minja#10", "huggingface/huggingface.js#1929"],
    "TypeScript": ["smg-project/smg#1448", "thinking-machines-lab/tinker-cookbook#248"],
    "foreign ids": ["sgl-project/sglang#25218", "sgl-project/sglang#25358"],
    "ids are the names": ["vllm-project/vllm#50768"],
    "forced choice": ["vllm-project/vllm#46344"],
    "arguments encoded twice": ["MoonshotAI/Kimi-K2#26"],
    "thinking dropped": ["MoonshotAI/Kimi-K2#89", "anomalyco/opencode#28542"],
    "tags stripped": ["ai-dynamo/dynamo#9227", "ikawrakow/ik_llama.cpp#1209"],
    "prefill": ["smg-project/smg#1873", "baidu/vLLM-Kunlun#388"],
    "thinking off": ["ikawrakow/ik_llama.cpp#1685", "edgelesssys/privatemode-public#7"],
    "call in reasoning": ["vllm-project/vllm#33646"],
    "markers in the stream": ["vllm-project/vllm#28543"],
    "reasoning_content missing": ["QuantumNous/new-api#3121"],
    "empty reasoning": ["MoonshotAI/kimi-cli#2498"],
    "field renamed": ["vllm-project/vllm#27752", "vllm-project/router#115"],
    "large arguments": ["vllm-project/vllm#54701"],
    "prose is no call": ["typeclaw/typeclaw#344"],
    "section or call begin": ["mlc-ai/xgrammar#622"],
    "legacy think tags": ["smg-project/smg#1917"],
    "leaked markers": ["cline/cline#12979", "openclaw/openclaw#60051"],
    "leaks in reasoning": ["vybestack/llxprt-code#749"],
    "singular section": ["ggml-org/llama.cpp#17376"],
}


def table(name: str) -> dict:
    return json.loads(spec_path(f"chat/{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_shape_of_its_schema(name: str) -> None:
    schema = json.loads(spec_path("chat/chat.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(table(name))
    assert table(name)["schema"] == f"chat-{name}.1"


def test_ids_are_unique_in_each_file() -> None:
    for name in FILES:
        counted = Counter(case["id"] for case in table(name)["cases"])
        assert max(counted.values()) == 1, counted.most_common(1)


def test_every_file_of_the_folder_is_listed() -> None:
    found = {path.stem for path in spec_path("chat").glob("*.json")}
    assert found == {*FILES, "chat.schema"}


@pytest.mark.parametrize("bug", BUGS)
def test_a_public_bug_has_a_case(bug: str) -> None:
    links = {link for name in FILES for case in table(name)["cases"] for link in case["links"]}
    missing = [thread for thread in BUGS[bug] if thread not in links]
    assert not missing

"""The tape checkpoint as other servers read it: tokenizer.json, template, deepseek_v3."""

import json
from pathlib import Path

from conformance.api.tape import CALL, write_tape
from k2ref.chat import K2_THINKING
from k2ref.tokenizer import PATTERN, load_tokenizer
from tests.k2ref.test_chat_template import template_of


def write_foreign_tape(folder: Path) -> Path:
    """Write the tape with a Hugging Face tokenizer beside its own: folder -> folder of the pair.

    The names are `own` (as published) and `foreign` (weights linked, other tokenizer files).
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    own = write_tape(folder / "own", CALL)
    foreign = folder / "foreign"
    foreign.mkdir()
    for path in own.glob("*.safetensors*"):
        (foreign / path.name).symlink_to(path)
    config = json.loads((own / "config.json").read_text())
    tokenizer = load_tokenizer(own)
    stop = tokenizer.special["<|im_end|>"]
    config |= {"model_type": "deepseek_v3", "eos_token_id": stop}
    (foreign / "config.json").write_text(json.dumps(config))

    letters = _letters()
    spelled = {t: "".join(letters[b] for b in t) for t in tokenizer.ranks}
    merges = [
        (spelled[t[:n]], spelled[t[n:]])
        for t in sorted(tokenizer.ranks, key=lambda t: tokenizer.ranks[t])
        for n in range(1, len(t))
        if t[:n] in tokenizer.ranks and t[n:] in tokenizer.ranks
    ]
    vocabulary = {spelled[t]: rank for t, rank in tokenizer.ranks.items()}
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    names = sorted(tokenizer.special, key=lambda name: tokenizer.special[name])
    plain = {"<think>", "</think>", *(n for n in names if n.startswith("<|tool_call"))}
    fast.add_tokens([AddedToken(n, special=n not in plain, normalized=False) for n in names])
    assert fast.token_to_id("<|im_end|>") == stop
    fast.save(str(foreign / "tokenizer.json"))
    table = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "clean_up_tokenization_spaces": False,
    }
    (foreign / "tokenizer_config.json").write_text(json.dumps(table))
    (foreign / "chat_template.jinja").write_text(template_of(K2_THINKING))
    return folder


def _letters() -> dict[int, str]:
    """Spell bytes as GPT-2 does, which byte-level tokenizers expect: -> letters by byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [n for n in range(256) if n not in shown]
    return {n: chr(n) for n in shown} | {n: chr(256 + place) for place, n in enumerate(hidden)}

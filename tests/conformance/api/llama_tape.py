"""llama-server with the tape checkpoint, in a process of its own: a path in, an address out."""

import json
import os
import sys
from pathlib import Path
from typing import Any


def write_tape_gguf(folder: Path) -> Path:
    """Write the pair of `foreign.write_foreign_tape` as one GGUF file: folder -> file."""
    import gguf

    from conformance.adapters import gguf_file

    fast = json.loads((folder / "foreign" / "tokenizer.json").read_text())
    config = json.loads((folder / "foreign" / "config.json").read_text())
    kinds = gguf.TokenType
    tokens = {rank: (word, kinds.NORMAL) for word, rank in fast["model"]["vocab"].items()}
    for token in fast["added_tokens"]:
        kind = kinds.CONTROL if token["special"] else kinds.USER_DEFINED
        tokens[token["id"]] = (token["content"], kind)
    merges = [m if isinstance(m, str) else " ".join(m) for m in fast["model"]["merges"]]

    def write_vocabulary(writer: Any, _: Any) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("kimi-k2")
        writer.add_token_list([tokens[n][0] for n in range(len(tokens))])
        writer.add_token_types([tokens[n][1] for n in range(len(tokens))])
        writer.add_token_merges(merges)
        writer.add_add_bos_token(False)
        writer.add_eos_token_id(config["eos_token_id"])
        writer.add_chat_template((folder / "foreign" / "chat_template.jinja").read_text())

    before, gguf_file._write_vocabulary = gguf_file._write_vocabulary, write_vocabulary
    try:
        gguf_file.write_gguf(folder / "own", folder / "tape.gguf")
    finally:
        gguf_file._write_vocabulary = before
    return folder / "tape.gguf"


def main() -> None:
    """Serve until standard input ends."""
    import xllamacpp

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library prints; standard output is for the address
    options = xllamacpp.CommonParams()
    options.model.path = sys.argv[1]
    options.n_ctx, options.n_parallel, options.warmup = 8192, 1, False
    options.verbosity = -1
    options.use_jinja = True
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    options.yarn_beta_fast = 1.0
    server = xllamacpp.Server(options)
    print(server.listening_address, file=answers, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()

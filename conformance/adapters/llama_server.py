"""llama-server in a process of its own: one JSON line says what to serve, one says where.

Run by `conformance.adapters.llama`, so that a crash or a hang of the library ends nothing else.
"""

import json
import os
import sys

import xllamacpp


def main() -> None:
    """Serve until the process is killed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library may print; standard output is for the one answer
    question = json.loads(sys.stdin.readline())
    options = xllamacpp.CommonParams()
    options.model.path = question["path"]
    options.n_ctx, options.n_parallel, options.warmup = 2048, 1, False
    options.verbosity = -1
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    options.yarn_beta_fast = question["beta_fast"]
    options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(options)
    answers.write(json.dumps({"address": server.listening_address}) + "\n")
    answers.flush()
    sys.stdin.read()  # until the parent is gone
    os._exit(0)


if __name__ == "__main__":
    main()

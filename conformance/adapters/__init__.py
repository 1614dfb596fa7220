"""Foreign engines: each adapter makes one look like an object that offers operations or `forward`.

k2cp        a program that speaks JSON lines, in any language
hf          transformers on torch
mlx         mlx-lm on the CPU
llama       llama.cpp, through a GGUF file that `gguf` writes
openai      a server with OpenAI-compatible completions and log-probabilities
dump        files that an engine wrote on its own
"""

"""The command `k2ref`: look at a checkpoint, run it, make one.

Exit codes: 0 done, 2 wrong input (one line on stderr says what, and what to do).
"""

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from k2ref.bench import add_bench_command
from k2ref.chat_cli import add_chat_commands, add_chat_options, answer
from k2ref.checkpoint import Checkpoint
from k2ref.errors import InputError
from k2ref.files import check_output, load_array, save_array, save_arrays, save_tensors
from k2ref.generate import Sampling, generate
from k2ref.model import Model
from k2ref.numerics import Numerics, parse_numerics, questions
from k2ref.presets import PRESETS
from k2ref.progress import bar, layer_progress
from k2ref.synth import FORMS, make_checkpoint
from k2ref.tensors import parameters
from k2ref.trace import Recorder, tap_names

DTYPES: dict[str, Any] = {
    "float64": np.float64,
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
}
OPS = ("oracle", "kernels")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: arguments -> exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # reported as tensors, not as lines
            run(options)
    except (InputError, OSError) as error:
        print(f"k2ref: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="k2ref", description="Kimi K2 as a readable reference.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="what a checkpoint holds")
    info.add_argument("directory", type=Path)
    info.set_defaults(run=run_info)

    forward = commands.add_parser("forward", help="logits and intermediate tensors of a prompt")
    _add_model(forward, ops="oracle")
    forward.add_argument("--positions", type=Path, metavar="F.npy", help="one position per id")
    forward.add_argument("--chunk", type=_positive, metavar="N", help="prefill N tokens at a time")
    forward.add_argument("--logits", type=Path, metavar="OUT.npy", required=True)
    forward.add_argument("--trace", type=Path, metavar="OUT.safetensors", help="every named tensor")
    forward.add_argument("--routing", type=Path, metavar="OUT.npz", help="experts and weights")
    forward.set_defaults(run=run_forward)

    continued = commands.add_parser("generate", help="continue a prompt")
    prompts = _add_model(continued, ops=None)
    prompts.add_argument("--chat", metavar="F.json", help="messages to answer, in text")
    add_chat_options(continued)
    continued.add_argument("--max-new", type=_positive, required=True, metavar="N")
    continued.add_argument("--temperature", type=float, default=0.0)
    continued.add_argument("--top-p", type=float, default=1.0)
    continued.add_argument("--seed", type=int, default=0)
    continued.set_defaults(run=run_generate)

    make = commands.add_parser("make-checkpoint", help="write a synthetic checkpoint")
    make.add_argument("directory", type=Path)
    make.add_argument("--preset", choices=PRESETS, default="nano")
    make.add_argument(
        "--layers", type=_positive, metavar="N", help="instead of the preset's number"
    )
    make.add_argument("--quant", choices=FORMS, default="int4")
    make.add_argument("--seed", type=int, default=0)
    make.set_defaults(run=run_make_checkpoint)

    add_chat_commands(commands)
    add_bench_command(commands)
    demo = commands.add_parser("demo", help="make a small checkpoint, run it, show what happens")
    demo.set_defaults(run=run_demo)
    return parser


def _add_model(parser: argparse.ArgumentParser, *, ops: str | None) -> Any:
    """Add the options that choose a model and its prompt: parser -> the group of prompts."""
    parser.add_argument("directory", type=Path, help="a checkpoint in the published format")
    ids = parser.add_mutually_exclusive_group(required=True)
    ids.add_argument("--ids", type=_ids, metavar="1,2,3")
    ids.add_argument("--ids-file", type=Path, metavar="F.npy")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of activations")
    usual = ops or "kernels, and oracle in float64"
    parser.add_argument("--ops", choices=OPS, default=ops, help=f"whose operations ({usual})")
    keys = "; ".join(f"{key}={'|'.join(allowed)}" for key, allowed in questions().items())
    parser.add_argument(
        "--numerics", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=keys
    )
    parser.add_argument(
        "--memory", type=parse_bytes, metavar="8G", help="weights that may stay in memory"
    )
    parser.add_argument("--inv-freq", type=Path, metavar="F.npy", help="a frequency table")
    return ids


def _ids(text: str) -> np.ndarray:
    try:
        return np.array([int(part) for part in text.split(",")], np.int64)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted integers like 1,2,3, got {text!r}") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a positive integer, got {text!r}")
    return int(text)


def parse_bytes(text: str) -> int:
    """Read an amount of memory: 8G, 500M or plain bytes -> bytes."""
    number, unit = text.rstrip("KMGT"), text.lstrip("0123456789")
    if not number.isdecimal() or unit not in ("", *"KMGT"):
        raise argparse.ArgumentTypeError(f"wanted bytes like 8G or 500M, got {text!r}")
    return int(number) << (10 * " KMGT".index(unit or " "))


def _prompt(options: argparse.Namespace) -> np.ndarray:
    ids_T: np.ndarray = options.ids if options.ids_file is None else load_array(options.ids_file)
    return ids_T


def _model(options: argparse.Namespace, numerics: Numerics) -> Model:
    table_Z = None if options.inv_freq is None else load_array(options.inv_freq)
    return Model(
        Checkpoint(options.directory, memory_bytes=options.memory),
        ops=_ops(options),
        dtype=DTYPES[options.dtype],
        numerics=numerics,
        inv_freq_Z=table_Z,
    )


def _ops(options: argparse.Namespace) -> ModuleType:
    exact = options.dtype == "float64"
    name = options.ops or ("oracle" if exact else "kernels")
    if name == "kernels" and exact:
        raise InputError("kernels compute in float32; --dtype float64 needs --ops oracle")
    return importlib.import_module(f"k2ref.{name}")


def run_info(options: argparse.Namespace) -> None:
    """Print what a checkpoint holds: options."""
    checkpoint = Checkpoint(options.directory)
    config = checkpoint.config
    total, active = parameters(config)
    cached = config.kv_lora_rank + config.qk_rope_head_dim
    rope = config.rope
    rows = {
        "family": f"{config.model_type}, {config.num_hidden_layers} layers, "
        f"{config.first_k_dense_replace} dense",
        "width": f"{config.hidden_size}, {config.num_attention_heads} heads, "
        f"vocabulary {config.vocab_size}",
        "experts": f"{config.n_routed_experts}, {config.num_experts_per_tok} per token and "
        f"{config.n_shared_experts} shared, width {config.moe_intermediate_size}",
        "latents": f"query {config.q_lora_rank}, key-value {config.kv_lora_rank}, "
        f"rope {config.qk_rope_head_dim}",
        "positions": f"{config.max_position_embeddings}, base {rope.rope_theta:g}, YaRN factor "
        f"{rope.factor:g}, beta {rope.beta_fast:g}/{rope.beta_slow:g}",
        "weights": {"none": "not quantised"}.get(
            config.quantization.method, config.quantization.method
        ),
        "parameters": f"{total:,}, {active:,} active per token",
        "on disk": f"{checkpoint.nbytes:,} bytes",
        "cache": f"{cached} values per token and layer, "
        f"{2 * cached * config.num_hidden_layers:,} bytes per token in bfloat16",
    }
    for name, value in rows.items():
        print(f"{name:<11} {value}")


def run_forward(options: argparse.Namespace) -> None:
    """Write the logits of a prompt, and a trace and a routing if asked: options."""
    numerics = parse_numerics(options.numerics)
    for output in (options.logits, options.trace, options.routing):
        check_output(output)
    model, ids_T = _model(options, numerics), _prompt(options)
    position_T = None if options.positions is None else load_array(options.positions)
    recorder = Recorder() if options.trace else Recorder(".moe.router.")
    not_finite: list[str] = []
    with (
        np.errstate(over="ignore", invalid="ignore"),
        layer_progress(model.config, model.checkpoint.residency) as advance,
    ):

        def trace(name: str, array: np.ndarray, /) -> None:
            advance(name, array)
            recorder(name, array)
            if not np.isfinite(array).all():
                not_finite.append(name)

        chunk = options.chunk or max(len(ids_T), 1)
        logits_TW = model.prefill(ids_T, position_T, chunk=chunk, trace=trace)
    save_array(options.logits, logits_TW)
    if options.routing:
        save_arrays(options.routing, routing_of(model, recorder))
    if options.trace:
        names = tap_names(model.config)
        save_tensors(options.trace, {name: recorder[name] for name in names})
    if not_finite:
        print(f"k2ref: NaN or infinity from {not_finite[0]} on", file=sys.stderr)


def routing_of(model: Model, recorder: Recorder) -> dict[str, np.ndarray]:
    """Stack what every sparse layer chose: -> experts and weights [layers, T, K], layer numbers."""
    config = model.config
    sparse = [n for n in range(config.num_hidden_layers) if config.is_sparse(n)]
    return {
        part: np.stack([recorder[f"L{n}.moe.router.{part}"] for n in sparse])
        for part in ("experts", "weights")
    } | {"layers": np.array(sparse)}


def run_generate(options: argparse.Namespace) -> None:
    """Print the ids that continue a prompt, or the answer to a chat, as they come: options."""
    sampling = Sampling(options.temperature, options.top_p, options.seed)
    model = _model(options, parse_numerics(options.numerics))
    if options.chat:
        for text in answer(options, model, max_new=options.max_new, sampling=sampling):
            print(text, end="", flush=True)
        return
    tokens = generate(model, _prompt(options), max_new=options.max_new, sampling=sampling)
    for place, token in enumerate(tokens):
        print(f",{token}" if place else token, end="", flush=True)
    print()


def run_make_checkpoint(options: argparse.Namespace) -> None:
    """Write a synthetic checkpoint: options."""
    config = PRESETS[options.preset]
    if options.layers:
        config = dataclasses.replace(config, num_hidden_layers=options.layers)
    with bar() as progress:
        make_checkpoint(
            options.directory, config, form=options.quant, seed=options.seed, progress=progress
        )


def run_demo(options: argparse.Namespace) -> None:
    """Show a whole run in a few seconds: options."""
    from k2ref.demo import demo

    demo()

"""A failing case of one operation as a file: smallest input, what is expected, how to ask again."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np

from conformance.adapters.address import split_address
from conformance.adapters.messages import flatten, output_names
from conformance.calls import answers, arguments, parameters
from conformance.cases import Case, all_cases
from conformance.compare import TAU_LIMIT, find_precision
from conformance.engine import Engine, EngineError, NotOffered, attempt
from conformance.judge import inputs, judge, reference
from conformance.repro.extract import extract
from conformance.repro.shrink import Table, shrink
from conformance.repro.text import literal, table_text
from conformance.results import Verdict
from conformance.spec import find_requirement
from k2ref import oracle
from k2ref.errors import InputError

HERE = Path(__file__).parent
NEEDS = {
    "hf": "numpy, torch, transformers and compressed-tensors",
    "mlx": "numpy, mlx and mlx-lm",
}
# scheme -> the module whose functions ask the library, and what goes before them
LIBRARIES = {
    "hf": ("conformance.adapters.hf_ops", ""),
    "mlx": (
        "conformance.adapters.mlx_ops",
        "import mlx.core as mx\n\nmx.set_default_device(mx.cpu)\n",
    ),
}


def find_case(name: str) -> Case:
    """Find a case by the name a run printed: CASE or CASE@SEED -> Case."""
    id_, _, seed = name.partition("@")
    found = next((c for c in all_cases(int(seed or 0)) if c.id == id_), None)
    if found is None:
        raise InputError(f"no case {name!r}; a run prints their names")
    return found


def is_case(name: str) -> bool:
    """Tell whether a name is that of a case of operations: CASE or CASE@SEED -> bool."""
    return any(c.id == name.partition("@")[0] for c in all_cases(0))


def verdict(engine: Engine, case: Case, table: Table) -> tuple[Verdict, str]:
    """Put one input to an engine: engine, case, table -> verdict and message."""
    precision = find_precision(engine.info.precision)
    function = engine.operation(case.op)
    if function is None:
        raise InputError(f"{engine.info.name} does not offer {case.op}")
    positional, keyword = arguments(case.op, table)
    try:
        found = answers(case.op, attempt(function, *positional, **keyword))
    except NotOffered:
        return Verdict.SKIPPED, ""
    except (EngineError, ValueError, TypeError) as error:
        return Verdict.ERRORED, str(error)
    asked = dataclasses.replace(case, table=table)
    agreement = judge(asked, found, precision, engine.info.numerics)
    return agreement.verdict, agreement.message


def smallest(engine: Engine, case: Case) -> Table:
    """Halve a failing input: engine, case -> the smallest that fails in the same way.

    Raises:
        InputError: the case does not fail.
    """
    table = inputs(case, find_precision(engine.info.precision), engine.info.numerics)
    first, _ = verdict(engine, case, table)
    if not first.failed:
        raise InputError(f"{case.id} does not fail: {first.value}")
    return shrink(case.op, table, lambda t: verdict(engine, case, t)[0] is first)


def script(engine: Engine, address: str, case: Case) -> tuple[str, bool]:
    """Write the file: engine, its address, case -> Python text, whether the engine raises."""
    table = smallest(engine, case)
    asked = dataclasses.replace(case, table=table)
    precision = find_precision(engine.info.precision)
    wanted = reference(asked, precision, engine.info.numerics)
    outcome, message = verdict(engine, case, table)
    requirement = find_requirement(case.requirement)
    rule = "bound" if case.rule == "units" else case.rule
    allowed: Any = 0.0
    if rule == "noise":
        assert wanted.sigma is not None
        allowed = TAU_LIMIT * wanted.sigma
    elif case.rule == "units":
        allowed = 4 * 2.0**-23 * np.abs(wanted.answers["out"])
    elif rule == "bound":
        allowed = wanted.bound
    fields = {
        "title": f"{engine.info.name} {engine.info.version}: {case.op} differs, case {case.id}.",
        "why": f"{requirement.must}\nInput: {case.why}. Seen: {message}",
        "needs": NEEDS.get(address.partition(":")[0], "numpy and the engine"),
        "inputs": table_text(table),
        "expected": table_text({k: np.asarray(v) for k, v in wanted.answers.items()}),
        "allowed": literal(allowed),
        "rule": repr(rule),
        "call": _call(address, case.op, table),
    }
    text = fill((HERE / "operation.py.txt").read_text("utf-8"), fields)
    return text, outcome is Verdict.ERRORED


def _call(address: str, op: str, table: Table) -> str:
    scheme, _, rest = address.partition(":")
    if scheme == "stdio":
        positional, keyword = arguments(op, table)
        bound = inspect.signature(getattr(oracle, op)).bind(*positional, **keyword)
        bound.apply_defaults()
        arrays, scalars = flatten(dict(bound.arguments), "")
        said = {"COMMAND": rest, "OPERATION": op, "RETURNED": output_names(op)}
        message = f"MESSAGE = {table_text({**arrays, **scalars})}\n\n\n"
        return _assigned(said) + message + _templates("call_stdio")
    told: dict[str, Any] = {
        "OPERATION": op,
        "POSITIONAL": [
            n for n, p in parameters(op).items() if p.kind is not inspect.Parameter.KEYWORD_ONLY
        ],
        "DOTTED": any("." in name for name in table),
    }
    if scheme in LIBRARIES:
        return _assigned(told) + _embedded(scheme, rest, op)
    module, _, attributes = (rest if scheme == "module" else address).partition(":")
    told |= {"MODULE": module, "ATTRIBUTES": [a for a in attributes.split(".") if a]}
    return _assigned(told) + _templates("types", "arguments", "call_module")


def _embedded(scheme: str, address: str, op: str) -> str:
    """Carry along what asks the library: scheme, address, operation -> Python text."""
    module, prelude = LIBRARIES[scheme]
    _, options = split_address(address, {"dtype": "", "weights": "", "patch": ""})
    patch = Path(options["patch"]).read_text("utf-8") if options["patch"] else ""
    fork = f"# ---- what the fork changes ----\n{patch}\n# -------------------------------\n"
    carried = extract("k2ref.oracle", "Int4", "Expert", "Routing") + extract(module, op)
    return (fork if patch else "") + prelude + carried + _templates("arguments", "call_embedded")


def _assigned(told: dict[str, Any]) -> str:
    return "".join(f"{name} = {value!r}\n" for name, value in told.items()) + "\n\n"


def _templates(*names: str) -> str:
    return "".join((HERE / f"{name}.py.txt").read_text("utf-8") for name in names)


def fill(template: str, fields: dict[str, str]) -> str:
    """Put values at their marks: template, fields -> text. A mark stands alone or after `= `."""
    return re.sub(r"\$(\w+)", lambda found: fields[found.group(1)], template)

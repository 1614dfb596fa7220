"""The operations once more: loops over Python floats, as a textbook writes them.

The second witness of the vectors. It shares no code with the oracle, not even the bits of the
format, and no trick: every sum is `math.fsum`, every float32 or bfloat16 rounding is done on the
bits. Slow, and only for small inputs.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = list[float]
Matrix = list[Row]
Table = Mapping[str, Any]


def float32(x: float) -> float:
    """Round to float32: x -> the nearest."""
    return float(struct.unpack("<f", struct.pack("<f", x))[0])


def bfloat16(x: float) -> float:
    """Round a float32 value to bfloat16, ties to even: x -> the nearest."""
    (bits,) = struct.unpack("<I", struct.pack("<f", x))
    upper, rest = bits >> 16, bits & 0xFFFF
    if rest > 0x8000 or (rest == 0x8000 and upper & 1):
        upper += 1
    return float(struct.unpack("<f", struct.pack("<I", upper << 16))[0])


def e4m3(byte: int) -> float:
    """Decode an FP8 value: byte -> number; 0x7f and 0xff are NaN."""
    sign, exponent, fraction = byte >> 7, (byte >> 3) & 15, byte & 7
    if exponent == 15 and fraction == 7:
        return math.nan
    size = math.ldexp(fraction, -9) if exponent == 0 else math.ldexp(8 + fraction, exponent - 10)
    return -size if sign else size


def floats(array: Any) -> Any:
    """Turn an array into nested lists of floats: array -> lists."""
    return array.astype("float64").tolist()


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Sum products exactly: a, b -> number."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


# the format


def unpack(table: Table) -> Matrix:
    """packed_MP, columns -> codes_ML"""
    rows = []
    for words in table["packed_MP"].tolist():
        rows.append([float(_nibble(words, i) - 8) for i in range(int(table["columns"]))])
    return rows


def _nibble(words: list[int], i: int) -> int:
    return (words[i // 8] >> (4 * (i % 8))) & 15  # Python shifts keep the sign, & 15 drops it


def pack(table: Table) -> Matrix:
    """codes_ML -> packed_MP"""
    rows = []
    for codes in table["codes_ML"].tolist():
        words = [0] * math.ceil(len(codes) / 8)
        for i, code in enumerate(codes):
            words[i // 8] |= (code + 8) << (4 * (i % 8))
        rows.append([float(w - (1 << 32) if w >> 31 else w) for w in words])
    return rows


def dequantize(table: Table) -> Matrix:
    """packed_MP, scale_MG, columns -> w_ML"""
    size, scales = table.get("group_size", 32), floats(table["scale_MG"])
    low = table.get("dequant", "exact") == "bf16"
    rows = []
    for codes, row_scales in zip(unpack(table), scales, strict=True):
        row = [code * row_scales[i // size] for i, code in enumerate(codes)]
        rows.append([bfloat16(w) for w in row] if low else row)
    return rows


def quantize(table: Table) -> tuple[Matrix, Matrix]:
    """w_ML -> codes_ML, scale_MG"""
    k2, codes, scales = table.get("rule", "k2") == "k2", [], []
    for row in floats(table["w_ML"]):
        code_row: Row = []
        scale_row: Row = []
        for start in range(0, len(row), 32):
            group = row[start : start + 32]
            scale = _scale(max(abs(w) for w in group), 7.0 if k2 else 7.5)
            scale_row.append(scale)
            code_row += [_code(w, scale, k2=k2) for w in group]
        codes.append(code_row)
        scales.append(scale_row)
    return codes, scales


def _scale(largest: float, levels: float) -> float:
    return bfloat16(float32(largest / levels)) if largest else 2.0**-7


def _code(w: float, scale: float, *, k2: bool) -> float:
    quotient = float32(w / scale)
    if not k2:
        quotient = bfloat16(quotient)
    return float(min(max(round(quotient), -7 if k2 else -8), 7))


def blocks(table: Table) -> Matrix:
    """values_ML e4m3, scale_UJ -> w_ML"""
    (rows, columns), scale = table["block"], floats(table["scale_UJ"])
    values = table["values_ML"].view("uint8").tolist()
    return [
        [float32(e4m3(byte) * scale[m // rows][i // columns]) for i, byte in enumerate(row)]
        for m, row in enumerate(values)
    ]


def product(x: Matrix, w: Matrix) -> Matrix:
    """x_TL, w_ML -> out_TM"""
    return [[dot(row, weights) for weights in w] for row in x]


def _times(weight: Callable[[Table], Matrix]) -> Callable[[Table], Matrix]:
    def multiplied(table: Table) -> Matrix:
        x = floats(table["x_TL"])
        return product(x, weight({"columns": len(x[0]), **table}))

    return multiplied


# small parts


def norm(table: Table) -> Matrix:
    """x_TD, gain_D, eps -> out_TD"""
    gain, rows = floats(table["gain_D"]), []
    for row in floats(table["x_TD"]):
        root = math.sqrt(dot(row, row) / len(row) + table["eps"])
        rows.append([x / root * g for x, g in zip(row, gain, strict=True)])
    return rows


def sigmoid(x: float) -> float:
    """x -> 1 / (1 + exp(-x))"""
    return 1 / (1 + math.exp(-x)) if x > -700 else math.exp(x)


def silu(x: float) -> float:
    """x -> x times its sigmoid"""
    return x * sigmoid(x)


def swiglu(gate: Row, up: Row) -> Row:
    """gate_F, up_F -> out_F"""
    return [silu(g) * u for g, u in zip(gate, up, strict=True)]


def softmax(row: Row) -> Row:
    """row -> probabilities"""
    powers = [math.exp(x - max(row)) for x in row]
    return [p / math.fsum(powers) for p in powers]


# positions


def frequencies(table: Table) -> Row:
    """rope_width, base, ... -> inv_freq_Z"""
    R, base, factor = table["rope_width"], table["base"], table["factor"]
    plain = [base ** (-2 * z / R) for z in range(R // 2)]
    if factor == 1:
        return plain

    def pair(turns: float) -> float:
        length = table["original_positions"] / (turns * 2 * math.pi)
        return R * math.log(length) / (2 * math.log(base))

    low = max(math.floor(pair(table["beta_fast"])), 0)
    high = min(math.ceil(pair(table["beta_slow"])), R - 1)
    width = high - low if high != low else 0.001
    ramps = [min(max((z - low) / width, 0), 1) for z in range(R // 2)]
    return [(1 - r) * w + r * w / factor for r, w in zip(ramps, plain, strict=True)]


def mscale(table: Table) -> float:
    """factor, mscale -> m"""
    return 1 + 0.1 * table["mscale"] * math.log(max(table["factor"], 1))


def angles(table: Table) -> Matrix:
    """position_T, inv_freq_Z float32 -> angle_TZ, each product rounded to float32"""
    table_Z = floats(table["inv_freq_Z"])
    return [[float32(p * w) for w in table_Z] for p in table["position_T"].tolist()]


def rotate(table: Table) -> Any:
    """x, angle_TZ -> out"""
    size = table.get("amplitude", 1.0)
    turns = [
        [size * complex(math.cos(a), math.sin(a)) for a in r] for r in floats(table["angle_TZ"])
    ]
    return [_turn(row, turn) for row, turn in zip(floats(table["x"]), turns, strict=True)]


def _turn(values: Any, turn: list[complex]) -> Any:
    if isinstance(values[0], list):
        return [_turn(head, turn) for head in values]
    pairs = [complex(values[2 * z], values[2 * z + 1]) * t for z, t in enumerate(turn)]
    return [part for pair in pairs for part in (pair.real, pair.imag)]


# attention


def attention(table: Table) -> list[Matrix]:
    """q_nope_THN, q_rope_THR, latent_SC, key_rope_SR, w_uk_HNC, w_uv_HVC -> out_THV"""
    names = ("q_nope_THN", "q_rope_THR", "latent_SC", "key_rope_SR", "w_uk_HNC", "w_uv_HVC")
    q_nope, q_rope, latent, key_rope, w_uk, w_uv = (floats(table[n]) for n in names)
    keys = [product(latent, w) for w in w_uk]
    values = [product(latent, w) for w in w_uv]
    out = []
    for t in range(len(q_nope)):
        visible = range(table["first_query"] + t + 1)
        heads = []
        for h in range(len(w_uk)):
            scores = [
                dot(q_nope[t][h] + q_rope[t][h], keys[h][s] + key_rope[s]) * table["scale"]
                for s in visible
            ]
            weights = softmax(scores)
            columns = zip(*(values[h][s] for s in visible), strict=True)
            heads.append([dot(weights, column) for column in columns])
        out.append(heads)
    return out


def split(table: Table) -> tuple[list[Matrix], list[Matrix]]:
    """w_ML, heads, nope -> w_uk_HNC, w_uv_HVC"""
    rows, heads, nope = floats(table["w_ML"]), table["heads"], table["nope"]
    each = len(rows) // heads
    by_head = [rows[h * each : (h + 1) * each] for h in range(heads)]
    return [head[:nope] for head in by_head], [head[nope:] for head in by_head]


# experts


def route(table: Table) -> tuple[Matrix, Matrix]:
    """logits_TE, bias_E, top_k, scale -> experts_TK, weights_TK"""
    experts, weights, bias = [], [], floats(table["bias_E"])
    for row in floats(table["logits_TE"]):
        scores = [sigmoid(x) for x in row]
        allowed = _allowed([s + b for s, b in zip(scores, bias, strict=True)], table)
        ranked = sorted(allowed, key=lambda e: (-(scores[e] + bias[e]), e))
        chosen = ranked[: table["top_k"]]
        total = math.fsum(scores[e] for e in chosen) + 1e-20
        share = total if table.get("renormalise", True) else 1.0
        experts.append([float(e) for e in chosen])
        weights.append([scores[e] / share * table["scale"] for e in chosen])
    return experts, weights


def _allowed(choice: Row, table: Table) -> list[int]:
    """List the experts of the groups that are kept: biased scores -> indices."""
    groups = table.get("n_group", 1)
    size = len(choice) // groups
    members = [range(g * size, (g + 1) * size) for g in range(groups)]
    rating = [sum(sorted((choice[e] for e in m), reverse=True)[:2]) for m in members]
    kept = sorted(range(groups), key=lambda g: (-rating[g], g))[: table.get("topk_group", 1)]
    return [e for g in kept for e in members[g]]


def expert(x: Matrix, table: Table) -> Matrix:
    """x_TD and the three weights -> out_TD"""
    weights = {part: _part(table, part) for part in ("gate", "up", "down")}
    gate, up = product(x, weights["gate"]), product(x, weights["up"])
    middle = [swiglu(g, u) for g, u in zip(gate, up, strict=True)]
    return product(middle, weights["down"])


def _part(table: Table, part: str) -> Matrix:
    if f"{part}.w_ML" in table:
        plain: Matrix = floats(table[f"{part}.w_ML"])
        return plain
    names = ("packed_MP", "scale_MG", "columns")
    return dequantize({name: table[f"{part}.{name}"] for name in names})


def mixture(table: Table) -> Matrix:
    """x_TD, experts_TK, weights_TK and stacked weights -> out_TD"""
    x, chosen = floats(table["x_TD"]), table["experts_TK"].tolist()
    weights, out = floats(table["weights_TK"]), []
    for row, experts, shares in zip(x, chosen, weights, strict=True):
        parts = [expert([row], _one(table, e))[0] for e in experts]
        out.append([dot(shares, column) for column in zip(*parts, strict=True)])
    return out


def _one(table: Table, e: int) -> dict[str, Any]:
    stacked = {name: value for name, value in table.items() if "." in name}
    return {n: v if n.endswith("columns") else v[e] for n, v in stacked.items()}


OPERATIONS: dict[str, Callable[[Table], Any]] = {
    "angles": angles,
    "attend_absorbed": attention,
    "attend_expanded": attention,
    "expert_ffn": lambda table: expert(floats(table["x_TD"]), table),
    "fp8_dequantize": blocks,
    "fp8_linear": _times(blocks),
    "int4_dequantize": dequantize,
    "int4_linear": _times(dequantize),
    "int4_pack": pack,
    "int4_quantize": quantize,
    "int4_unpack": unpack,
    "linear": _times(lambda table: floats(table["w_ML"])),
    "moe": mixture,
    "rms_norm": norm,
    "rotate": rotate,
    "route": route,
    "router_logits": lambda table: product(floats(table["x_TD"]), floats(table["w_ED"])),
    "router_scores": lambda table: [[sigmoid(x) for x in r] for r in floats(table["logits_TE"])],
    "silu": lambda table: [[silu(x) for x in row] for row in floats(table["x"])],
    "softmax": lambda table: [softmax(row) for row in floats(table["logits"])],
    "split_kv_b": split,
    "swiglu": lambda table: [
        swiglu(*pair) for pair in zip(floats(table["gate_TF"]), floats(table["up_TF"]), strict=True)
    ],
    "yarn_inv_freq": frequencies,
    "yarn_mscale": mscale,
}

"""Vectors of 16 lanes in registers: the operations of `_lanes` as LLVM vector instructions.

A value is an LLVM array of `count` vectors; every loop over `count` below runs while compiling.
LLVM splits the vectors where registers are narrower than 16 lanes. One instruction depends on the
processor: with AVX-512 a nibble becomes a number through a table of 16 entries held in a register
(the instruction looks at the low four bits only, which saves the mask); elsewhere its bits are laid
into the significand of 2^23, from which 2^23 + 8 is taken. Pairs exist with AVX512_BF16 only.
"""

import math
import struct
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.errors import RequireLiteralValue
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

LANES = 16
_I32, _I64 = ir.IntType(32), ir.IntType(64)


class Lanes(types.Type):
    """`count` vectors of 16 float32 or uint32."""

    def __init__(self, element: Any, count: int) -> None:
        self.element, self.count = element, count
        super().__init__(name=f"Lanes({element}, {count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        element = ir.FloatType() if lanes.element is types.float32 else _I32
        super().__init__(manager, lanes, ir.ArrayType(ir.VectorType(element, LANES), lanes.count))


_HALVES = ir.VectorType(ir.IntType(16), 2 * LANES)
_FLOATS, _WORDS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(_I32, LANES)


def _floats(count: int) -> Lanes:
    return Lanes(types.float32, count)


def _fixed(count: Any) -> int:
    if not isinstance(count, types.IntegerLiteral):
        raise RequireLiteralValue("the number of vectors must be known while compiling")
    return int(count.literal_value)


def _splat(vector: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _fan(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return _shuffle(builder, one, [0] * vector.count)


def _shuffle(builder: Any, vector: Any, lanes: list[int]) -> Any:
    order = ir.Constant(ir.VectorType(_I32, len(lanes)), lanes)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), order)


def _gather(builder: Any, vectors: list[Any]) -> Any:
    out = ir.Constant(ir.ArrayType(vectors[0].type, len(vectors)), ir.Undefined)
    for i, vector in enumerate(vectors):
        out = builder.insert_value(out, vector, i)
    return out


def _parts(builder: Any, lanes: Any) -> list[Any]:
    return [builder.extract_value(lanes, i) for i in range(lanes.type.count)]


def _place(context: Any, builder: Any, array_type: Any, array: Any, index: list[Any]) -> Any:
    view = context.make_array(array_type)(context, builder, array)
    return cgutils.get_item_pointer(context, builder, array_type, view, index)


def _read(builder: Any, place: Any, vector: ir.VectorType) -> Any:
    bytes_each = (vector.element.width if isinstance(vector.element, ir.IntType) else 32) // 8
    return builder.load(builder.bitcast(place, vector.as_pointer()), align=bytes_each)


def _bfloat16(builder: Any, bits: Any) -> Any:
    wide = ir.VectorType(_I32, bits.type.count)
    shifted = builder.shl(builder.zext(bits, wide), _splat(wide, 16))
    return builder.bitcast(shifted, ir.VectorType(ir.FloatType(), bits.type.count))


def _e4m3(builder: Any, bits: Any) -> Any:
    """Emit sign, exponent and significand as those of float16, then 2^8: biases are 15 and 7."""
    halves = ir.VectorType(ir.IntType(16), LANES)
    seven = _splat(bits.type, 127)
    none = builder.icmp_unsigned("==", builder.and_(bits, seven), seven)
    laid = builder.shl(builder.sext(bits, halves), _splat(halves, 7))
    laid = builder.and_(laid, _splat(halves, 0xBFFF))
    float16 = builder.bitcast(laid, ir.VectorType(ir.HalfType(), LANES))
    values = builder.fmul(builder.fpext(float16, _FLOATS), _splat(_FLOATS, 2.0**8))
    return builder.select(none, _splat(_FLOATS, math.nan), values)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    signature = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    call = cgutils.get_or_insert_function(builder.module, signature, "llvm.fmuladd.v16f32")
    return builder.call(call, [a, b, c])


@intrinsic
def zeros(typing, count):
    """Give vectors of zeros: count -> vectors."""
    n = _fixed(count)

    def emit(context, builder, signature, args):
        return _gather(builder, [_splat(_FLOATS, 0.0)] * n)

    return _floats(n)(count), emit


@intrinsic
def load(typing, a, start, count):
    """Read consecutive values, 16 to a vector: a, start -> vectors."""
    n = _fixed(count)

    def emit(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], args[0], [args[1]])
        at = [builder.gep(place, [ir.Constant(_I64, LANES * i)]) for i in range(n)]
        return _gather(builder, [_read(builder, p, _FLOATS) for p in at])

    return _floats(n)(a, start, count), emit


def _row_places(context: Any, builder: Any, signature: Any, args: Any, n: int) -> list[Any]:
    rows = [builder.add(args[1], ir.Constant(args[1].type, i)) for i in range(n)]
    return [_place(context, builder, signature.args[0], args[0], [row, args[2]]) for row in rows]


def _read_all(builder: Any, element: Any, places: list[Any]) -> Any:
    if element is types.uint16:
        halves = ir.VectorType(ir.IntType(16), LANES)
        return _gather(builder, [_bfloat16(builder, _read(builder, p, halves)) for p in places])
    if element is types.uint8:
        eighths = ir.VectorType(ir.IntType(8), LANES)
        return _gather(builder, [_e4m3(builder, _read(builder, p, eighths)) for p in places])
    vector = _WORDS if element is types.uint32 else _FLOATS
    return _gather(builder, [_read(builder, p, vector) for p in places])


@intrinsic
def load_rows(typing, a, row, column, count):
    """Read 16 columns of `count` rows: a, row, column -> vectors."""
    n = _fixed(count)
    element = types.uint32 if a.dtype is types.uint32 else types.float32

    def emit(context, builder, signature, args):
        places = _row_places(context, builder, signature, args, n)
        return _read_all(builder, a.dtype, places)

    return Lanes(element, n)(a, row, column, count), emit


@intrinsic
def load_across(typing, a, row, column, count):
    """Read consecutive values of a row, 16 to a vector: a, row, column -> vectors."""
    n = _fixed(count)

    def emit(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], args[0], list(args[1:3]))
        places = [builder.gep(place, [ir.Constant(_I64, LANES * i)]) for i in range(n)]
        return _read_all(builder, a.dtype, places)

    return _floats(n)(a, row, column, count), emit


@intrinsic
def load_scales(typing, a, row, group, count):
    """Read 4 bfloat16 scales of `count` rows, each for 4 lanes: a, row, group -> vectors."""
    n = _fixed(count)

    def emit(context, builder, signature, args):
        places = _row_places(context, builder, signature, args, n)
        return _gather(builder, [_four_scales(builder, place) for place in places])

    return _floats(n)(a, row, group, count), emit


def _four_scales(builder: Any, place: Any) -> Any:
    """Emit one load, which repeats the four, and one shuffle of bytes."""
    eight_bytes = builder.load(builder.bitcast(place, _I64.as_pointer()), align=2)
    repeated = _fan(builder, eight_bytes, ir.VectorType(_I64, 8))
    halves = builder.bitcast(repeated, ir.VectorType(ir.IntType(16), 32))
    nothing = ir.Constant(halves.type, [0] * 32)
    order = [half for lane in range(LANES) for half in (32, lane // 4 * 9)]
    mask = ir.Constant(ir.VectorType(_I32, 32), order)
    return builder.bitcast(builder.shuffle_vector(halves, nothing, mask), _FLOATS)


@intrinsic
def fetch(typing, a, row, column, cache):
    """Ask for the line of an element needed soon, into cache 1 or 2: a, row, column -> nothing."""
    locality = 4 - _fixed(cache)

    def emit(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], args[0], list(args[1:3]))
        address = builder.bitcast(place, ir.IntType(8).as_pointer())
        call_type = ir.FunctionType(ir.VoidType(), [address.type, _I32, _I32, _I32])
        call = cgutils.get_or_insert_function(builder.module, call_type, "llvm.prefetch.p0")
        read, near, data = (ir.Constant(_I32, i) for i in (0, locality, 1))
        builder.call(call, [address, read, near, data])
        return context.get_dummy_value()

    return types.none(a, row, column, cache), emit


def _has(feature: str) -> bool:
    features: str = cpu_target.target_context.codegen().magic_tuple()[2]
    return f"+{feature}" in features.split(",")


PAIRS = _has("avx512bf16")
if PAIRS:
    binding.initialize_native_asmparser()  # for the one instruction given by its name


def _table_lookup(builder: Any, shifted: Any) -> Any:
    name, signature = "llvm.x86.avx512.permvar.sf.512", ir.FunctionType(_FLOATS, [_FLOATS, _WORDS])
    table = ir.Constant(_FLOATS, [float(code) for code in range(-8, 8)])
    call = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(call, [table, shifted])


def _significand(builder: Any, shifted: Any) -> Any:
    nibble = builder.and_(shifted, _splat(_WORDS, 15))
    laid = builder.or_(nibble, _splat(_WORDS, (127 + 23) << 23))
    return builder.fsub(builder.bitcast(laid, _FLOATS), _splat(_FLOATS, 2.0**23 + 8))


@intrinsic
def codes(typing, words, n):
    """Read nibble n of each word as a code -8 … 7: words, n -> vectors."""

    def emit(context, builder, signature, args):
        to_code = _table_lookup if _has("avx512f") else _significand
        bits = builder.shl(builder.trunc(args[1], _I32), ir.Constant(_I32, 2))
        by = _fan(builder, bits, _WORDS)
        parts = _parts(builder, args[0])
        return _gather(builder, [to_code(builder, builder.lshr(word, by)) for word in parts])

    return _floats(words.count)(words, n), emit


def _pair_table() -> ir.Constant:
    """Give the codes as bfloat16 twice over: the instruction looks at five bits, one too many."""
    halves = [struct.unpack("<2H", struct.pack("<f", code))[1] for code in range(-8, 8)]
    return ir.Constant(_HALVES, 2 * halves)


@intrinsic
def code_pairs(typing, words, n):
    """Read nibbles n and n + 4 as codes, a pair of bfloat16 bits to a lane: words, n -> words."""

    def emit(context, builder, signature, args):
        signature = ir.FunctionType(_HALVES, [_HALVES] * 2)
        name = "llvm.x86.avx512.permvar.hi.512"
        call = cgutils.get_or_insert_function(builder.module, signature, name)
        bits = builder.shl(builder.trunc(args[1], _I32), ir.Constant(_I32, 2))
        by = _fan(builder, bits, _WORDS)
        shifted = [builder.lshr(word, by) for word in _parts(builder, args[0])]
        indices = [builder.bitcast(word, _HALVES) for word in shifted]
        pairs = [builder.call(call, [_pair_table(), index]) for index in indices]
        return _gather(builder, [builder.bitcast(pair, _WORDS) for pair in pairs])

    return words(words, n), emit


@intrinsic
def fused_pairs(typing, a, b, c):
    """Multiply pairs of bfloat16 and add both, one `b` for all: a, b, c -> a · b + c."""

    def emit(context, builder, signature, args):
        assembly = ir.InlineAsm(
            ir.FunctionType(_FLOATS, [_FLOATS, _WORDS, _WORDS]),
            "vdpbf16ps $3, $2, $0",
            "=v,0,v,v",
        )
        left, (right,), third = (_parts(builder, arg) for arg in args)
        pairs = zip(left, third, strict=True)
        return _gather(builder, [builder.call(assembly, [z, x, right]) for x, z in pairs])

    return c(a, b, c), emit


@intrinsic
def splat(typing, a, row, column, count):
    """Fill one vector each with `count` consecutive values: a, row, column -> vectors."""
    n = _fixed(count)

    def emit(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], args[0], list(args[1:3]))
        at = [builder.gep(place, [ir.Constant(_I64, i)]) for i in range(n)]
        return _gather(builder, [_fan(builder, builder.load(p), _FLOATS) for p in at])

    return _floats(n)(a, row, column, count), emit


@intrinsic
def added(typing, a, b):
    """Add lane by lane: a, b -> a + b."""

    def emit(context, builder, signature, args):
        pairs = zip(*(_parts(builder, arg) for arg in args), strict=True)
        return _gather(builder, [builder.fadd(x, y) for x, y in pairs])

    return _floats(a.count)(a, b), emit


@intrinsic
def product(typing, a, b):
    """Multiply lane by lane: a, b -> a · b."""

    def emit(context, builder, signature, args):
        pairs = zip(*(_parts(builder, arg) for arg in args), strict=True)
        return _gather(builder, [builder.fmul(x, y) for x, y in pairs])

    return _floats(a.count)(a, b), emit


@intrinsic
def fused(typing, a, b, c):
    """Multiply and add, one `b` for all or one for each: a, b, c -> a · b + c."""

    def emit(context, builder, signature, args):
        left, right, third = (_parts(builder, arg) for arg in args)
        right = right * (len(left) // len(right))
        return _gather(
            builder, [_fma(builder, *xyz) for xyz in zip(left, right, third, strict=True)]
        )

    return _floats(a.count)(a, b, c), emit


@intrinsic
def fused_outer(typing, a, b, c):
    """Multiply every vector of a by every vector of b and add: a, b, c -> a ⊗ b + c."""

    def emit(context, builder, signature, args):
        left, right, third = (_parts(builder, arg) for arg in args)
        pairs = [(x, y) for x in left for y in right]
        out = [_fma(builder, x, y, z) for (x, y), z in zip(pairs, third, strict=True)]
        return _gather(builder, out)

    return _floats(a.count * b.count)(a, b, c), emit


def _exp(builder: Any, x: Any) -> Any:
    """Emit 2^k · e^r with k = round(x / ln 2), r = x - k ln 2 and a polynomial for e^r.

    64 is added to k at first and taken off by the last product, which rounds what is tiny.
    """
    lowest = _splat(_FLOATS, -104.0)  # e^-104 rounds to zero
    magic = _splat(_FLOATS, 1.5 * 2**23 + 64)  # its last bit counts ones
    x = builder.select(builder.fcmp_ordered("<", x, lowest), lowest, x)
    shifted = _fma(builder, x, _splat(_FLOATS, _single(1 / math.log(2))), magic)
    k = builder.fsub(shifted, magic)
    r = _fma(builder, k, _splat(_FLOATS, -_LN2_HIGH), x)
    r = _fma(builder, k, _splat(_FLOATS, -_single(math.log(2) - _LN2_HIGH)), r)
    power = _splat(_FLOATS, _single(1 / 5040))
    for factorial in (720, 120, 24, 6, 2, 1, 1):
        power = _fma(builder, power, r, _splat(_FLOATS, _single(1 / factorial)))
    exponent = builder.shl(builder.bitcast(shifted, _WORDS), _splat(_WORDS, 23))
    scaled = builder.bitcast(builder.add(builder.bitcast(power, _WORDS), exponent), _FLOATS)
    return builder.fmul(scaled, _splat(_FLOATS, 2.0**-64))


def _silu(builder: Any, x: Any) -> Any:
    zero, one = _splat(_FLOATS, 0.0), _splat(_FLOATS, 1.0)
    positive = builder.fcmp_ordered(">=", x, zero)
    tail = _exp(builder, builder.select(positive, builder.fneg(x), x))
    upper = builder.fmul(x, builder.select(positive, one, tail))
    return builder.fdiv(upper, builder.fadd(one, tail))


_LN2_HIGH = 0.693359375  # 9 bits: k · this is exact


def _single(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


@intrinsic
def exp(typing, a):
    """Raise e to the power of values that are not positive: a -> e^a."""

    def emit(context, builder, signature, args):
        return _gather(builder, [_exp(builder, part) for part in _parts(builder, args[0])])

    return _floats(a.count)(a), emit


@intrinsic
def silu(typing, a):
    """Multiply by the sigmoid: a -> a / (1 + e^-a)."""

    def emit(context, builder, signature, args):
        return _gather(builder, [_silu(builder, part) for part in _parts(builder, args[0])])

    return _floats(a.count)(a), emit


@intrinsic
def total(typing, vector):
    """Add up the lanes of one vector, halves first: vector -> scalar."""

    def emit(context, builder, signature, args):
        return _total(builder, builder.extract_value(args[0], 0))

    return types.float32(vector), emit


@intrinsic
def store(typing, vectors, a, row, column):
    """Write vectors one after another into a row: vectors, a, row, column -> nothing."""

    def emit(context, builder, signature, args):
        place = _place(context, builder, signature.args[1], args[1], list(args[2:]))
        for i, part in enumerate(_parts(builder, args[0])):
            at = builder.gep(place, [ir.Constant(_I64, LANES * i)])
            builder.store(part, builder.bitcast(at, _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.none(vectors, a, row, column), emit


def _total(builder: Any, vector: Any) -> Any:
    while (half := vector.type.count // 2) > 0:
        low = _shuffle(builder, vector, list(range(half)))
        vector = builder.fadd(low, _shuffle(builder, vector, list(range(half, 2 * half))))
    return builder.extract_element(vector, ir.Constant(_I32, 0))


@intrinsic
def store_totals(typing, vectors, a, row, column, count):
    """Add up lanes; vector i goes to row i % count, column i // count: vectors, a -> nothing."""
    n = _fixed(count)

    def emit(context, builder, signature, args):
        for i, part in enumerate(_parts(builder, args[0])):
            at = [
                builder.add(args[2], ir.Constant(args[2].type, i % n)),
                builder.add(args[3], ir.Constant(args[3].type, i // n)),
            ]
            place = _place(context, builder, signature.args[1], args[1], at)
            builder.store(_total(builder, part), place)
        return context.get_dummy_value()

    return types.none(vectors, a, row, column, count), emit

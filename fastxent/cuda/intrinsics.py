"""PTX and LLVM intrinsics that Numba lacks: loads and stores by address, exp2, half precision.

Addresses are uint64, as every library gives them, and kernels count bytes: so they have no code for
negative indices, reach rows beyond 2³¹ elements, and can load bfloat16 as bits. Pointers are made
in the global address space: only there a 128-bit access is one instruction.

The tests' simulator replaces this whole module, so it holds intrinsics alone.
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

_GLOBAL = 1  # the address space of device memory
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_F32, _F64 = ir.FloatType(), ir.DoubleType()
_VECTOR_BYTES = 16


def _pointer(builder, address, kind):
    return builder.inttoptr(address, ir.PointerType(kind, _GLOBAL))


# --- memory ---------------------------------------------------------------------------------


def _make_load(number, kind, n_bytes):
    @intrinsic
    def load(typing, address):
        def build(context, builder, signature, args):
            return builder.load(_pointer(builder, args[0], kind), align=n_bytes)

        return number(types.uint64), build

    return load


def _make_store(number, kind, n_bytes):
    @intrinsic
    def store(typing, address, value):
        def build(context, builder, signature, args):
            builder.store(args[1], _pointer(builder, args[0], kind), align=n_bytes)
            return context.get_dummy_value()

        return types.void(types.uint64, number), build

    return store


load_f32, store_f32 = (make(types.float32, _F32, 4) for make in (_make_load, _make_store))
load_f64, store_f64 = (make(types.float64, _F64, 8) for make in (_make_load, _make_store))
load_u8 = _make_load(types.uint8, ir.IntType(8), 1)
load_u16, store_u16 = (make(types.uint16, _I16, 2) for make in (_make_load, _make_store))
load_u32 = _make_load(types.uint32, _I32, 4)
load_i64, store_i64 = (make(types.int64, _I64, 8) for make in (_make_load, _make_store))


def _word(context, builder, array, value, at, k):
    """The address of array[at + k]."""
    data = context.make_array(array)(context, builder, value).data
    return builder.gep(data, [builder.add(at, ir.Constant(at.type, k))], inbounds=True)


def _vector(context, array):
    kind = context.get_data_type(array.dtype)
    return ir.VectorType(kind, _VECTOR_BYTES * 8 // array.dtype.bitwidth)


@intrinsic
def load_vector(typing, address, words, at):
    """Fill words[at], words[at + 1], … with the 16 bytes at an address divisible by 16."""

    def build(context, builder, signature, args):
        vector = _vector(context, words)
        whole = builder.load(_pointer(builder, args[0], vector), align=_VECTOR_BYTES)
        for k in range(vector.count):
            place = _word(context, builder, words, args[1], args[2], k)
            builder.store(builder.extract_element(whole, ir.Constant(_I32, k)), place)
        return context.get_dummy_value()

    return types.void(types.uint64, words, types.int32), build


@intrinsic
def store_vector(typing, address, words, at):
    """Write words[at], words[at + 1], … to the 16 bytes at an address divisible by 16."""

    def build(context, builder, signature, args):
        vector = _vector(context, words)
        whole = ir.Constant(vector, ir.Undefined)
        for k in range(vector.count):
            value = builder.load(_word(context, builder, words, args[1], args[2], k))
            whole = builder.insert_element(whole, value, ir.Constant(_I32, k))
        builder.store(whole, _pointer(builder, args[0], vector), align=_VECTOR_BYTES)
        return context.get_dummy_value()

    return types.void(types.uint64, words, types.int32), build


# --- clusters of blocks, from compute capability 9 on ----------------------------------------


def _make_fence(text):
    """An intrinsic of one PTX instruction across which memory accesses are not moved."""

    @intrinsic
    def fence(typing):
        def build(context, builder, signature, args):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(ir.InlineAsm(kind, text, "~{memory}", side_effect=True), [])
            return context.get_dummy_value()

        return types.void(), build

    return fence


# The barrier of all threads of a cluster in two halves: memory that is written before the first is
# visible to all of them after the second.
cluster_arrive = _make_fence("barrier.cluster.arrive.release;")
cluster_wait = _make_fence("barrier.cluster.wait.acquire;")


_LETTERS = {types.float32: ("f", "f32"), types.float64: ("d", "f64"), types.int32: ("r", "s32")}


@intrinsic
def store_beside(typing, array, at, value, block):
    """array[at] = value in the shared memory of another block of the cluster, by its number."""
    letter, suffix = _LETTERS[array.dtype]
    text = f"{{ .reg .u64 there; mapa.u64 there, $0, $1; st.{suffix} [there], $2; }}"

    def build(context, builder, signature, args):
        place = builder.ptrtoint(_word(context, builder, array, args[0], args[1], 0), _I64)
        kinds = [_I64, _I32, context.get_data_type(array.dtype)]
        function = ir.FunctionType(ir.VoidType(), kinds)
        code = ir.InlineAsm(function, text, f"l,r,{letter},~{{memory}}", side_effect=True)
        builder.call(code, [place, args[3], args[2]])
        return context.get_dummy_value()

    return types.void(array, types.int32, array.dtype, types.int32), build


# --- arithmetic -----------------------------------------------------------------------------


def _make_instruction(text, result, *arguments):
    """An intrinsic of one PTX instruction without side effects."""
    letters = {types.float32: "f", types.float64: "d", types.uint32: "r"}
    constraint = ",".join(["=" + letters[result], *(letters[kind] for kind in arguments)])

    def build(context, builder, signature, args):
        kinds = [context.get_data_type(kind) for kind in (result, *arguments)]
        function = ir.FunctionType(kinds[0], kinds[1:])
        return builder.call(ir.InlineAsm(function, text, constraint), args)

    if len(arguments) == 1:

        @intrinsic
        def one(typing, a):
            return result(*arguments), build

        return one

    if len(arguments) == 2:

        @intrinsic
        def two(typing, a, b):
            return result(*arguments), build

        return two

    @intrinsic
    def three(typing, a, b, c):
        return result(*arguments), build

    return three


# 2**x, to 2 ulp; numbers below the normal range are 0, and 2**0 is exactly 1.
exp2_f32 = _make_instruction("ex2.approx.ftz.f32 $0, $1;", types.float32, types.float32)
# a·b + c, rounded once.
fma_f32 = _make_instruction(
    "fma.rn.f32 $0, $1, $2, $3;", types.float32, types.float32, types.float32, types.float32
)
# The larger; of a nan and a number the number.
max_f32 = _make_instruction("max.f32 $0, $1, $2;", types.float32, types.float32, types.float32)
max_f64 = _make_instruction("max.f64 $0, $1, $2;", types.float64, types.float64, types.float64)
# Two numbers rounded to half precision, the first in the lower half; from compute capability 8 on.
pack_bfloat16 = _make_instruction(
    "cvt.rn.bf16x2.f32 $0, $2, $1;", types.uint32, types.float32, types.float32
)
pack_float16 = _make_instruction(
    "cvt.rn.f16x2.f32 $0, $2, $1;", types.uint32, types.float32, types.float32
)

# Four of the eight bytes of two words, the first's before the second's: the numbers of the bytes
# are the digits of the third, from the lowest on.
choose_bytes = _make_instruction(
    "prmt.b32 $0, $1, $2, $3;", types.uint32, types.uint32, types.uint32, types.uint32
)


def _make_of_bits(build):
    @intrinsic
    def value(typing, bits):
        return types.float32(types.uint32), lambda context, builder, _, args: build(
            builder, args[0]
        )

    return value


def _from_float16(builder, bits):
    return builder.fpext(builder.bitcast(builder.trunc(bits, _I16), ir.HalfType()), _F32)


@intrinsic
def bits_f32(typing, x):
    """The bits of a float32."""
    return types.uint32(types.float32), lambda context, b, _, args: b.bitcast(args[0], _I32)


@intrinsic
def float16_bits(typing, x):
    """The bits of a float32 rounded to float16, on any architecture."""

    def build(context, builder, signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), _I16)

    return types.uint16(types.float32), build


# The number in the lower or in the upper half of 32 bits.
low_bfloat16 = _make_of_bits(lambda b, bits: b.bitcast(b.shl(bits, ir.Constant(_I32, 16)), _F32))
high_bfloat16 = _make_of_bits(
    lambda b, bits: b.bitcast(b.and_(bits, ir.Constant(_I32, 0xFFFF0000)), _F32)
)
low_float16 = _make_of_bits(_from_float16)
high_float16 = _make_of_bits(lambda b, bits: _from_float16(b, b.lshr(bits, ir.Constant(_I32, 16))))

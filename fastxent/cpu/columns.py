"""Groups of rows as columns: transposes, strided access, and one element per lane.

A group has as many rows as a vector has lanes; column j is the vector of their elements j. The
columns of a group lie one after the other in scratch memory. A lane's `place` is the index, counted
from the first column, of one element of its row: column·width + lane.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastxent.cpu.half_lanes import build_round
from fastxent.cpu.lanes import I32, I64, Half, Lanes, build_max, build_slice, build_splat
from fastxent.cpu.memory import build_nothing
from fastxent.cpu.partial import build_address

# --- transposes -----------------------------------------------------------------------------


def _block(lanes):
    """Return how many columns are transposed at a time: those of one 128-bit load.

    128-bit loads and unpacking within 128 bits are cheap on every CPU; gathers are not.
    """
    return 128 // lanes.dtype.bitwidth


def _unpack(builder, x, y, high, size, part):
    """Interleave runs of `size` elements of the low or high half of each 128 bits of x and y."""
    index = []
    for first in range(0, x.type.count, part):
        for k in range(part // 2 * high, part // 2 * (high + 1), size):
            index += [first + k + i for i in range(size)]
            index += [x.type.count + first + k + i for i in range(size)]
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(index)), index))


def _transpose_squares(builder, vectors, part):
    """Transpose, within each 128 bits, the square of `part` vectors; its own inverse."""
    if part == 2:
        x, y = vectors
        return [_unpack(builder, x, y, high, 1, part) for high in (0, 1)]
    a, b, c, d = vectors
    pairs = [
        (_unpack(builder, a, b, high, 1, part), _unpack(builder, c, d, high, 1, part))
        for high in (0, 1)
    ]
    return [_unpack(builder, x, y, high, 2, part) for x, y in pairs for high in (0, 1)]


def _concatenate(builder, vectors):
    """Concatenate vectors, whose number is a power of two, to one."""
    while len(vectors) > 1:
        index = list(range(2 * vectors[0].type.count))
        constant = ir.Constant(ir.VectorType(I32, len(index)), index)
        vectors = [
            builder.shuffle_vector(x, y, constant)
            for x, y in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


@intrinsic
def block_of_columns(typingctx, pointer):
    """The number of columns that `load_transposed` and `store_transposed` transpose."""
    block = _block(Lanes(pointer.dtype))

    def lower(context, builder, sig, args):
        return I64(block)

    return types.int64(pointer), lower


def _column_address(builder, columns, j, k, lanes):
    at = builder.mul(builder.add(j, I64(k)), I64(lanes.width))
    return build_address(builder, columns, at, lanes.width)


@intrinsic
def load_transposed(typingctx, pointer, stride, j, columns, m):
    """Transpose a block of a group's columns, from column j on, into the vectors at `columns`.

    `stride` is from a row to the next. Returns the `maximum` of m and the columns.
    """
    lanes = Lanes(pointer.dtype)

    def lower(context, builder, sig, args):
        pointer, stride, j, columns, largest = args
        part, bytes_ = _block(lanes), lanes.dtype.bitwidth // 8
        kind = ir.VectorType(lanes.vector.element, part).as_pointer()
        at, rows = builder.gep(pointer, [j]), []
        for _ in range(lanes.width):
            rows.append(builder.load(builder.bitcast(at, kind), align=bytes_))
            at = builder.gep(at, [stride])
        # Row i of the square in each 128 bits: the rows i, i + part, i + 2·part …
        square = [_concatenate(builder, rows[i::part]) for i in range(part)]
        for k, column in enumerate(_transpose_squares(builder, square, part)):
            builder.store(column, _column_address(builder, columns, j, k, lanes), align=bytes_)
            largest = build_max(builder, largest, column)
        return largest

    return lanes(pointer, types.int64, types.int64, columns, lanes), lower


@intrinsic
def store_transposed(typingctx, pointer, stride, j, columns, factor):
    """The inverse of `load_transposed`: write the vectors at `columns` to the group's rows.

    They are multiplied by `factor`, a vector, unless that is None.
    """
    lanes = Lanes(pointer.dtype)

    def lower(context, builder, sig, args):
        pointer, stride, j, columns, factor = args
        part, bytes_ = _block(lanes), lanes.dtype.bitwidth // 8
        kind = ir.VectorType(lanes.vector.element, part).as_pointer()
        vectors = []
        for k in range(part):
            place = _column_address(builder, columns, j, k, lanes)
            vectors.append(builder.load(place, align=bytes_))
        if isinstance(sig.args[4], Lanes):
            vectors = [builder.fmul(vector, factor) for vector in vectors]
        square, at = _transpose_squares(builder, vectors, part), builder.gep(pointer, [j])
        for i in range(lanes.width):
            piece = build_slice(builder, square[i % part], i // part * part, part)
            builder.store(piece, builder.bitcast(at, kind), align=bytes_)
            at = builder.gep(at, [stride])
        return context.get_dummy_value()

    return types.none(pointer, types.int64, types.int64, columns, factor), lower


# --- one class of a group -------------------------------------------------------------------


@intrinsic
def store_at_places(typingctx, pointer, row_step, places, x):
    """Write lane k of x to row k of the group, at the class of the lane's place.

    `row_step` is the stride of rows in elements. No-op where x is None.
    """

    def lower(context, builder, sig, args):
        at, row_step, places, value = args
        if isinstance(pointer.dtype, Half):
            value = build_round(builder, value, pointer.dtype)
        shift = I64(x.width.bit_length() - 1)
        for k in range(x.width):
            place = builder.load(builder.gep(places, [I64(k)]))
            column = builder.lshr(place, shift)
            builder.store(builder.extract_element(value, I32(k)), builder.gep(at, [column]))
            at = builder.gep(at, [row_step])
        return context.get_dummy_value()

    absent = isinstance(x, types.NoneType)
    signature = types.none(pointer, types.int64, places, x)
    return signature, build_nothing if absent else lower


@intrinsic
def load_strided(typingctx, pointer, stride, j):
    """The elements j, stride + j, 2·stride + j …, one of each row of a group."""
    lanes = Lanes(pointer.dtype)

    def lower(context, builder, sig, args):
        pointer, stride, j = args
        value, at = ir.Constant(lanes.vector, ir.Undefined), builder.gep(pointer, [j])
        for k in range(lanes.width):
            value = builder.insert_element(value, builder.load(at), I32(k))
            at = builder.gep(at, [stride])
        return value

    return lanes(pointer, types.int64, types.int64), lower


@intrinsic
def store_strided(typingctx, pointer, stride, j, x):
    """Write the lanes of x to the elements j, stride + j, 2·stride + j … of a group."""

    def lower(context, builder, sig, args):
        pointer, stride, j, value = args
        at = builder.gep(pointer, [j])
        for k in range(x.width):
            builder.store(builder.extract_element(value, I32(k)), at)
            at = builder.gep(at, [stride])
        return context.get_dummy_value()

    return types.none(pointer, types.int64, types.int64, x), lower


# --- one element per lane -------------------------------------------------------------------


def _addresses_of(builder, columns, places, width):
    """Yield each lane and the address of the element at its place."""
    for k in range(width):
        place = builder.load(builder.gep(places, [I64(k)]))
        yield k, builder.gep(columns, [place])


@intrinsic
def find_places(typingctx, labels, n, ignored, columns, places):
    """Write the places of a group's target classes; return the number of rows without one.

    The place of a row without one, whose label is `ignored` or not one of the n classes, is in
    column 0. All labels are read once, by one load.
    """
    width = Lanes(columns.dtype).width
    vector = ir.VectorType(I64, width)

    def lower(context, builder, sig, args):
        labels, n, ignored, _, places = args
        y = builder.load(builder.bitcast(labels, vector.as_pointer()), align=8)
        zero, lanes = (ir.Constant(vector, [k * i for i in range(width)]) for k in (0, 1))
        inside = builder.icmp_unsigned("<", y, build_splat(builder, n, vector))
        active = builder.icmp_signed("!=", y, build_splat(builder, ignored, vector))
        has_class = builder.and_(inside, active)
        column = builder.select(has_class, y, zero)
        shift = ir.Constant(vector, [width.bit_length() - 1] * width)
        place = builder.add(builder.shl(column, shift), lanes)
        builder.store(place, builder.bitcast(places, vector.as_pointer()), align=8)
        missing = builder.bitcast(builder.not_(has_class), ir.IntType(width))
        return builder.zext(builder.ctpop(missing), I64)

    row_of = types.CPointer(types.int64)
    return types.int64(row_of, types.int64, types.int64, columns, row_of), lower


@intrinsic
def gather_lanes(typingctx, columns, places):
    """The vector of the elements at the lanes' places."""
    lanes = Lanes(columns.dtype)

    def lower(context, builder, sig, args):
        value = ir.Constant(lanes.vector, ir.Undefined)
        for k, address in _addresses_of(builder, *args, lanes.width):
            value = builder.insert_element(value, builder.load(address), I32(k))
        return value

    return lanes(columns, types.CPointer(types.int64)), lower


@intrinsic
def scatter_lanes(typingctx, columns, places, x):
    """Write each lane of x to its place; no-op where x is None."""

    def lower(context, builder, sig, args):
        columns, places, value = args
        for k, address in _addresses_of(builder, columns, places, x.width):
            builder.store(builder.extract_element(value, I32(k)), address)
        return context.get_dummy_value()

    absent = isinstance(x, types.NoneType)
    return types.none(columns, places, x), build_nothing if absent else lower

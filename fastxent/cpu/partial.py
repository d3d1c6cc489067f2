"""Partial vectors: the first n lanes loaded from or stored to the end of a row.

Masked loads and stores are dozens of instructions on a CPU that lacks them: LLVM makes a branch per
lane. There a partial vector is moved as vectors of half, quarter … the width. Those are four
branches for sixteen lanes, which are predicted well, as they are the same in every row.

`n` is 0 or more; n >= the width means a whole vector.
"""

from llvmlite import ir

from fastxent.cpu.lanes import I1, I32, I64, build_call, build_slice, intrinsic_suffix, target_cpu


def build_address(builder, pointer, j, width):
    """Return the address of element j as a pointer to a vector."""
    vector = ir.VectorType(pointer.type.pointee, width)
    return builder.bitcast(builder.gep(pointer, [j]), vector.as_pointer())


def has_masked_loads(bits):
    """Whether the target CPU loads selected elements of so many bits, and only those.

    LLVM makes branches of a masked load of this length on ARM, also where there is SVE.
    """
    is_x86, features = target_cpu()
    return is_x86 and ("+avx512bw" if bits < 32 else "+avx") in features


def build_part_load(builder, pointer, j, n, mask, rest, align):
    """Return the n elements from a pointer's element j on, then `rest`, a scalar in every lane.

    `mask` is that of the first n lanes.
    """
    vector = rest.type
    if has_masked_loads(8 * align):
        name = f"llvm.masked.load.{intrinsic_suffix(vector)}.p0"
        address = build_address(builder, pointer, j, vector.count)
        return build_call(builder, name, vector, [address, I32(align), mask, rest])
    with builder.if_else(builder.icmp_signed(">=", n, I64(vector.count))) as (whole, halves):
        with whole:
            address = build_address(builder, pointer, j, vector.count)
            loaded = builder.load(address, align=align), builder.block
        with halves:
            joined = _load_halves(builder, builder.gep(pointer, [j]), n, rest, align), builder.block
    return build_phi(builder, loaded, joined)


def _load_halves(builder, pointer, n, rest, align):
    """Load the first n lanes, n < width, from the last ones on: each step adds those before."""
    width, half = rest.type.count, 1
    value = build_slice(builder, rest, 0, 1)
    while half < width:
        # The vector of twice this length that ends the n elements begins here.
        first = builder.and_(n, I64(-2 * half))
        padded = _join(builder, value, build_slice(builder, rest, 0, half)), builder.block
        with builder.if_then(_has_bit(builder, n, half)):
            low = builder.load(build_address(builder, pointer, first, half), align=align)
            joined = _join(builder, low, value), builder.block
        value = build_phi(builder, joined, padded)
        half *= 2
    return value


def build_part_store(builder, pointer, j, n, value, align):
    """Write the first n lanes of a vector from a pointer's element j on."""
    width = value.type.count
    with builder.if_else(builder.icmp_signed(">=", n, I64(width))) as (whole, halves):
        with whole:
            builder.store(value, build_address(builder, pointer, j, width), align=align)
        with halves:
            _store_halves(builder, builder.gep(pointer, [j]), n, value, align)


def _store_halves(builder, pointer, n, value, align):
    """Store the first n lanes, n < width, from the first ones on."""
    half = value.type.count // 2
    while half:
        low, high = (build_slice(builder, value, k, half) for k in (0, half))
        before = builder.block
        with builder.if_then(_has_bit(builder, n, half)):
            address = builder.bitcast(pointer, low.type.as_pointer())
            builder.store(low, address, align=align)
            after = builder.gep(pointer, [I64(half)])
            inside = builder.block
        value = build_phi(builder, (high, inside), (low, before))
        pointer = build_phi(builder, (after, inside), (pointer, before))
        half //= 2


def _has_bit(builder, n, power):
    """Whether a power of two is a term of n."""
    return builder.trunc(builder.lshr(n, I64(power.bit_length() - 1)), I1)


def _join(builder, low, high):
    """Return the vector of two halves."""
    count = 2 * low.type.count
    return builder.shuffle_vector(
        low, high, ir.Constant(ir.VectorType(I32, count), [*range(count)])
    )


def build_phi(builder, *branches):
    """Return the value of the branch that was executed; branches are (value, block) pairs."""
    result = builder.phi(branches[0][0].type)
    for value, block in branches:
        result.add_incoming(value, block)
    return result

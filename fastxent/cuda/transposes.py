"""Transpose vectors among the lanes of a warp, in registers.

`width` lanes exchange the elements of their vectors. Before the transpose, lane k of them has class
k of rows 0, 1, …; after it, classes 0, 1, … of row k. For each bit of k, pairs of lanes that differ
in that bit exchange the elements whose place in the vector differs in it.
"""

from numba import cuda, int32, uint32

from fastxent.cuda.elements import Element, Function, device, repeated
from fastxent.cuda.groups import ALL, WARP
from fastxent.cuda.intrinsics import choose_bytes


def make_sub_lane(element: Element) -> Function:
    """sub_lane(): the number k of this lane among those that exchange elements with it."""
    lane_step = WARP // element.width

    @device
    def sub_lane():
        return (cuda.threadIdx.x & 31) // lane_step

    return sub_lane


@device
def of_words(word, offset):
    """Exchange a word with the lane at this offset; return that lane's word."""
    return cuda.shfl_xor_sync(ALL, word, offset)


@device
def of_halves(word, offset):
    """The same for two halves in a uint32, for which there is no shuffle."""
    return uint32(cuda.shfl_xor_sync(ALL, int32(word), offset))


def make_transpose(element: Element) -> Function:
    """transpose(buffer, first): words first, first + 1, … of a buffer, which are a vector.

    It is its own inverse. All lanes of a warp call it together.
    """
    n_words, per_word = element.words, element.width // element.words
    lane_step, sub_lane = WARP // element.width, make_sub_lane(element)
    from_lane = of_halves if per_word == 2 else of_words
    exchange_halves = make_exchange_halves(lane_step)

    # Not loops: those with shuffles in them are not unrolled.
    @device
    def exchange_pair(is_upper, k, arguments):
        """Exchange by the k-th pair of words whose numbers differ in a bit."""
        buffer, first, bit = arguments
        low = first + ((k & -bit) << 1 | (k & (bit - 1)))
        high = low + bit
        a, b = buffer[low], buffer[high]
        other = from_lane(a if is_upper else b, bit * per_word * lane_step)
        buffer[low] = other if is_upper else a
        buffer[high] = b if is_upper else other
        return is_upper

    exchange_pairs = repeated(exchange_pair, n_words // 2)

    @device
    def exchange_bit(sub, number, arguments):
        """Exchange by a bit of a word's number; that of the lane is `per_word` times as high."""
        buffer, first = arguments
        bit = 1 << number
        exchange_pairs((sub & (bit * per_word)) != 0, 0, (buffer, first, bit))
        return sub

    exchange_words = repeated(exchange_bit, n_words.bit_length() - 1)

    @device
    def transpose(buffer, first):
        sub = sub_lane()
        if per_word == 2:
            for k in range(0, n_words, 2):
                exchange_halves(buffer, first + k, first + k + 1, sub & 1)
        exchange_words(sub, 0, (buffer, first))

    return transpose


def make_exchange_halves(offset: int) -> Function:
    """exchange_halves(buffer, j, k, is_upper): those of words j and k with the lane at an offset.

    The upper lane of the two keeps the upper halves.
    """

    @device
    def exchange_halves(buffer, j, k, is_upper):
        a, b = buffer[j], buffer[k]
        sent = choose_bytes(a, b, uint32(0x5410) if is_upper else uint32(0x7632))
        other = of_halves(sent, offset)
        buffer[j] = choose_bytes(a, other, uint32(0x3254) if is_upper else uint32(0x5410))
        buffer[k] = choose_bytes(b, other, uint32(0x3276) if is_upper else uint32(0x7610))

    return exchange_halves

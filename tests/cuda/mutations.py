"""The table: breaks of one line each in the CUDA kernels, and the simulated test each one fails."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """What goes wrong; the file in the package; text that stands there once; the new; the test."""

    name: str
    file: str
    old: str
    new: str
    test: str


ARRAYS, BINARY, ELEMENTS, GROUPS, KERNELS, LAUNCH, ROWS = (
    f"cuda/{file}.py"
    for file in (
        "array_kernels", "binary_kernels", "elements", "groups", "kernels", "launch", "rows"
    )
)  # fmt: skip
TEST = "tests/cuda/test_simulated.py::test_"

# Tests were chosen to be quick, and to fail on every run: by the order of warps that they ask for.
MUTATIONS = [
    # --- barriers ---------------------------------------------------------------------------
    Mutation("barrier of a reduction dropped", GROUPS,
             "shared[slot * WARP + warp] = value\n        cuda.syncthreads()",
             "shared[slot * WARP + warp] = value\n        pass",
             TEST + "softmax_in_place[700-softmax]"),
    Mutation("barrier of the sum that keeps roundings dropped", GROUPS,
             "= total, lost\n        cuda.syncthreads()", "= total, lost\n        pass",
             TEST + "binary_sums_keep_what_rounding_loses"),
    Mutation("places of an exchange used again without a barrier", ROWS,
             "total(count, shared, 3)", "total(count, shared, 2)",
             TEST + "softmax_in_place[700-softmax]"),
    Mutation("target logit read after another warp has written", KERNELS,
             "row_loss(apart, share, z_loss, margin, log_s,",
             "row_loss(apart, share, z_loss,"
             " m - load(x + at * x_pitch + uint64(uint32(y)) * uint64(size)), log_s,",
             TEST + "gradient_in_place[False-True-float32]"),
    Mutation("probability of the target read after another warp has written", KERNELS,
             "cuda.syncthreads()  # all have read", "pass  # all have read",
             TEST + "categorical_in_place_of_several_warps[True]"),
    # --- rows -------------------------------------------------------------------------------
    Mutation("-inf - (-inf) in the tail", ROWS,
             "shift = m if m > minus_inf else zero", "shift = m",
             TEST + "tails[float32]"),
    Mutation("sums of the tail not carried to its new maximum", ROWS,
             "(below + count) * exp((m - new) * factor), zero", "below + count, zero",
             TEST + "softmax_family[float32-1699]"),
    Mutation("sums of a thread not carried to the row's maximum", ROWS,
             "(below + count) * exp((mine - m) * factor), zero", "below + count, zero",
             TEST + "softmax_family[float32-1699]"),
    Mutation("maximum of the tail forgotten", ROWS,
             "return largest(behind[0], shared, 1), behind", "return m, behind",
             TEST + "the_maximum_is_found_wherever_it_is[700]"),
    Mutation("first vector of the tail not written", ROWS,
             "while at >= beyond and at < vectors:", "while at > beyond and at < vectors:",
             TEST + "softmax_in_place[700-softmax]"),
    Mutation("argmax does not look at the tail", ROWS,
             "at = thread + beyond\n                while at < reach:",
             "at = thread + beyond\n                while False:",
             TEST + "two_equal_maxima"),
    Mutation("edge forgotten in the maximum", ROWS,
             "m = line[5]\n", "m = minus_inf\n",
             TEST + "the_maximum_is_found_wherever_it_is[37]"),
    Mutation("last element of a row not written", ROWS,
             "elif thread < n - vectors * int32(width):",
             "elif thread < n - vectors * int32(width) - 1:",
             TEST + "wherever_rows_begin[37-float32]"),
    Mutation("vectors begin at the wrong element", ROWS,
             "(uint64(width) - past) % uint64(width)", "past % uint64(width)",
             TEST + "wherever_rows_begin[37-float32]"),
    Mutation("how often the maximum occurs added to what is below it", ROWS,
             "found = total(below, shared, 2), total(count, shared, 3)",
             "found = total(below + count, shared, 2) - one, one",
             TEST + "confident_rows[3-float32]"),
    Mutation("halves of a word exchanged", ELEMENTS,
             "pack(values[2 * k], values[2 * k + 1])", "pack(values[2 * k + 1], values[2 * k])",
             TEST + "softmax_family[float16-101]"),
    Mutation("vectors where an output lies otherwise", LAUNCH,
             "o is None or (o.address - first.address) % 16 == 0 and", "o is None or",
             TEST + "outputs_that_lie_otherwise"),
    # --- cross-entropy ----------------------------------------------------------------------
    Mutation("gradient at the target as p - 1", KERNELS,
             "up * grad_at_target(apart, pull, share, a_y, rest, e_y, inverse_s)",
             "up * (e_y * inverse_s - one)",
             TEST + "confident_rows[3-float32]"),
    Mutation("Hessian of a dominant class as p·(1 - p)", KERNELS,
             "q = others * inverse if column == top else one - p", "q = one - p",
             TEST + "hessian_diagonal[float32-37]"),
    Mutation("scale before the shift", KERNELS,
             "return exp((x - m) * factor) * inverse",
             "return exp(x * factor - m * factor) * inverse",
             TEST + "logit_scale[3.0-float32-37]"),
    Mutation("0 times -inf under smoothing", KERNELS,
             "return kept(a, a * ((m - x) * factor)), a", "return a * ((m - x) * factor), a",
             TEST + "weights_of_0_add_exactly_nothing"),
    Mutation("argmax passes over nan", KERNELS,
             "return _OF_NAN + column", "return _NOT_THERE",
             TEST + "two_equal_maxima"),
    Mutation("gradient of an ignored row not blank beside its probabilities", KERNELS,
             "return blank if (reads_all or sharing) and not counted else g", "return g",
             TEST + "ignored_rows[float32-37-]"),
    Mutation("gradient of an ignored row not blank", KERNELS,
             "m, c, at_y = zero, blank, blank", "at_y = blank",
             TEST + "nan_in_an_ignored_row_of_a_mean"),
    Mutation("gradient through a softcap of an ignored row", ARRAYS,
             "store(at, g * slope if g != zero else g)", "store(at, g * slope)",
             TEST + "ignored_rows[float32-37-softcap]"),
    Mutation("chain of the softcap forgotten", ARRAYS,
             "slope *= softcap_parts(e, expm1, one)[1]", "slope *= one",
             TEST + "softcap[float32-37]"),
    # --- labels, sums -----------------------------------------------------------------------
    Mutation("negative labels pass as classes", KERNELS,
             "return uint64(label) < uint64(n)", "return label < n",
             TEST + "unchecked_bad_labels_are_nan[cross_entropy]"),
    Mutation("ignored label has a loss", KERNELS,
             "silent = u == zero or (ignoring != 0 and label == ignored)", "silent = u == zero",
             TEST + "each_option[{'ignore_index': 2}]"),
    Mutation("ignored label counts in the mean", ARRAYS,
             "if not (ignoring and label == ignored):", "if True:",
             TEST + "each_option[{'ignore_index': 2}]"),
    Mutation("ignore_index wrapped to the labels' type", LAUNCH,
             "if ignore_index is None or not low <= ignore_index <= high:",
             "if ignore_index is None:",
             TEST + "label_types[u8]"),
    Mutation("large unsigned label named as a negative one", LAUNCH,
             "return label + 2**64 if kind == 7 and label < 0 else label", "return label",
             TEST + "the_first_bad_label_is_named"),
    Mutation("a block of rows takes the labels of the first", LAUNCH,
             "labels.address + (block.first << (labels.kind >> 1))", "labels.address",
             TEST + "block_by_block"),
    Mutation("sample weight left out of the divisor", ARRAYS,
             "found += u * w", "found += w",
             TEST + "each_option[{'sample_weight': True}]"),
    Mutation("labels behind the last one scanned", ARRAYS,
             "end = min(first + chunk, n_rows)", "end = first + chunk",
             TEST + "a_mean_over_many_rows"),
    Mutation("last number of a chunk left out", ARRAYS,
             "end = min(first + chunk, n)\n", "end = min(first + chunk - 1, n)\n",
             TEST + "a_mean_over_many_rows"),
    Mutation("a divisor of 0 has an inverse", ARRAYS,
             "_ONE / found if found != _ZERO else _ZERO", "_ONE / found",
             TEST + "mean_over_nothing[labels1-options1]"),
    # --- binary -----------------------------------------------------------------------------
    Mutation("rounding of a sum lost", GROUPS,
             "return total, (a[1] + b[1]) + lost", "return total, a[1] + b[1]",
             TEST + "binary_sums_keep_what_rounding_loses"),
    Mutation("rounding of an infinite sum given back", BINARY,
             "lost if found - found == zero else zero", "lost",
             TEST + "binary_sums_keep_what_rounding_loses"),
    Mutation("a block takes the weights of the first", BINARY,
             "pos_at + numbers_on if pos_at else pos_at", "pos_at",
             TEST + "binary_logits[True-float32]"),
    Mutation("0 times inf in binary", BINARY,
             "return kept(neg, neg * softplus) +", "return neg * softplus +",
             TEST + "binary_labels_at_the_ends"),
]  # fmt: skip

"""The table: breaks of one line each in kernels and formulas, and the test that each one fails."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """What goes wrong; the file in the package; text that stands there once; the new; the test."""

    name: str
    file: str
    old: str
    new: str
    test: str


KERNELS, ROW, FORMULAS = "cpu/kernels.py", "cpu/row.py", "formulas.py"
ACCURACY, SPECIAL, LAYOUTS, LANES, ERRORS, REPRODUCIBLE = (
    f"tests/test_{file}.py::test_"
    for file in ("accuracy", "special_values", "layouts", "lanes", "errors", "reproducible")
)

# Tests were chosen to be quick: most of what a mutation costs is compiling its kernels.
MUTATIONS = [
    # --- the row loss -----------------------------------------------------------------------
    Mutation("target logit read after its row was overwritten", KERNELS,
             "row_loss(apart, share, z_loss, margin,",
             "row_loss(apart, share, z_loss, float(m) - float(z[y]),",
             LAYOUTS + "gradient_in_place[float32-options0-shape0]"),
    Mutation("loss as lse - x_y: an offset shared by the row costs digits", KERNELS,
             "row_loss(apart, share, z_loss, margin, log_s,",
             "row_loss(apart, share, z_loss, float(m) + log_s - float(z[y]), 0.0,",
             ACCURACY + "shared_offset_float64"),
    Mutation("log(1 + rest) for log1p(rest)", FORMULAS,
             "math.log1p(rest) if", "math.log(rest + e_y) if",
             SPECIAL + "logsumexp_corners[float32]"),
    Mutation("nan row without class weight is 0", FORMULAS,
             "if apart else apart * log_s", "if apart else 0.0",
             SPECIAL + "a_bad_row_is_nan_even_without_class_weight[float32-row0]"),
    Mutation("0 times -inf under smoothing", ROW,
             "return zero_where_zero(w, w * (m - load_part(x, j, part, m)))",
             "return w * (m - load_part(x, j, part, m))",
             SPECIAL + "zero_weight_adds_exactly_nothing[float32]"),
    Mutation("class weight left out of the mean's divisor", KERNELS,
             "_add(total, lost, u * w)", "_add(total, lost, u)",
             SPECIAL + "mean_over_nothing[float32-labels2-options2]"),
    # --- the gradient -----------------------------------------------------------------------
    Mutation("gradient at the target as p - 1", FORMULAS,
             "apart * (rest * inverse)", "apart * (1.0 - e_y * inverse)",
             ACCURACY + "index_targets[float32-largest-2-30]"),
    Mutation("smoothing forgets the target's own share", FORMULAS,
             "(rest * inverse) - share * a_y", "(rest * inverse)",
             ACCURACY + "smoothing_and_z_loss[float32-17]"),
    Mutation("derivative of the z-loss without its 2", FORMULAS,
             "pull += (z_loss + z_loss) * lse", "pull += z_loss * lse",
             ACCURACY + "smoothing_and_z_loss[float32-17]"),
    Mutation("derivative of the softcap as 1 - t²", FORMULAS,
             "((e + e) / denominator) * ((one + one) / denominator)",
             "one - (expm1 / denominator) * (expm1 / denominator)",
             ACCURACY + "softcap[float32-17-30.0]"),
    Mutation("scale without the shift before it", KERNELS,
             "map_row(minus_times, z, z, n, m, abs(logit_scale))",
             "map_row(times, z, z, n, abs(logit_scale), 0.0)",
             ACCURACY + "logit_scale[float32-17-3.0]"),
    Mutation("Hessian of a dominant class as p·(1 - p)", KERNELS,
             "(largest / s) * (others / s)", "(largest / s) * (1.0 - largest / s)",
             ACCURACY + "hessian_diagonal[float32-10]"),
    Mutation("gradient of ignored rows multiplied by 0, not written", KERNELS,
             "fill_row(row(grad, i), n, value)",
             "map_row(times, row(grad, i), row(grad, i), n, value, 0.0)",
             SPECIAL + "ignored_rows[float32]"),
    # --- rows and sums ----------------------------------------------------------------------
    Mutation("end of a row not written", ROW,
             "store_part(out, j, part, f(load_part(x, j, part, 0.0), a, b))",
             "store_part(out, j, 0, f(load_part(x, j, part, 0.0), a, b))",
             ACCURACY + "softmax_family[float32-3-1]"),
    Mutation("what fills the last vector takes part in the maximum", ROW,
             "load_part(x, full * width, n - full * width, -math.inf)",
             "load_part(x, full * width, n - full * width, 0.0)",
             ACCURACY + "shared_offset[-10000000.0]"),
    Mutation("one of the four chains of the maximum skipped", ROW,
             "c = maximum(c, load(x, j + 2 * width))", "c = maximum(c, load(x, j + width))",
             ACCURACY + "the_maximum_is_found_wherever_it_is[float32-150]"),
    Mutation("maximum of another row after an ignored one", KERNELS,
             "m = ahead if ahead_of == i else row_max(x, n)", "m = ahead",
             SPECIAL + "ignored_rows[float32]"),
    Mutation("lane beside the target left out", ROW,
             "without_lane(v, skip - at * width)", "without_lane(v, skip - at * width + 1)",
             ACCURACY + "index_targets[float32-random-33-1]"),
    Mutation("rounding of long rows lost", ROW,
             "return larger, lost + ((larger - total) - block)", "return larger, lost",
             ACCURACY + "softmax_family[float64-128256-1]"),
    Mutation("rounding of many rows lost", KERNELS,
             "return larger, lost + ((total - larger) + value)", "return larger, lost",
             REPRODUCIBLE + "a_mean_over_many_rows_is_as_good_as_over_few[float64-False]"),
    Mutation("a large row loss swallows small ones", KERNELS,
             "return larger, lost + ((value - larger) + total)", "return larger, lost",
             SPECIAL + "large_weights_do_not_swallow_small_ones[float32]"),
    Mutation("a block takes the weights of the first rows", "cpu/launch.py",
             "int(varying), sample_weight[base:], ignoring,",
             "int(varying), sample_weight, ignoring,",
             LAYOUTS + "rows_keep_their_own_target_and_weight[float32]"),
    Mutation("exp of what is too small not 0", "cpu/vector_math.py",
             "return where_less(x, lowest, 0.0, t * q + t)", "return t * q + t",
             LANES + "exp_at_its_ends[float32]"),
    # --- nan and bad labels -----------------------------------------------------------------
    Mutation("argmax passes over nan", ROW,
             "if value != value:", "if False:",
             SPECIAL + "every_row_of_special_values[float32-options0]"),
    Mutation("logsumexp loses nan beside inf", KERNELS,
             "return math.nan if not math.isfinite(peak) and has_nan(x, n) else peak",
             "return peak",
             SPECIAL + "logsumexp_corners[float32]"),
    Mutation("unchecked bad label is 0", KERNELS,
             "0.0 if valid or silent else math.nan", "0.0",
             SPECIAL + "unchecked_bad_label_is_nan[float32-2]"),
    Mutation("label C passes the check", KERNELS,
             "valid = y >= 0 and y < n_classes", "valid = y >= 0 and y <= n_classes",
             ERRORS + "targets[logits-too large]"),
    # --- probability targets ----------------------------------------------------------------
    Mutation("class weight left out of probabilities", ROW,
             "return zero_where_zero(q, q * w)", "return q",
             ACCURACY + "probability_targets[float32-options1-soft-17-1]"),
    Mutation("the class set apart is the first, not the likeliest", KERNELS,
             "y = find(z, m, n)", "y = 0",
             ACCURACY + "probability_targets[float32-options0-one-hot-17-30]"),
    Mutation("class without weight counts in categorical", ROW,
             "return zero_where_zero(a, a * lane_costs(p_j, r, most)[0])",
             "return a * lane_costs(p_j, r, most)[0]",
             SPECIAL + "a_class_without_weight_is_silent_in_probabilities[float32]"),
    # --- binary -----------------------------------------------------------------------------
    Mutation("pos_weight dropped", "cpu/binary_kernels.py",
             "load_part(pos_weight, j * pos_step, part, 0.0) * y", "y",
             ACCURACY + "binary_logits[float32-True-1]"),
    Mutation("a chunk takes the weights of the first", "cpu/binary_kernels.py",
             "row(weight, lo * step), step, row(pos_weight,",
             "row(weight, 0), step, row(pos_weight,",
             ACCURACY + "binary_logits[float32-True-1]"),
    Mutation("softplus(-x) as softplus(x)", FORMULAS,
             "where_less(x, zero, -x, zero) + log1p_e", "where_less(zero, x, x, zero) + log1p_e",
             ACCURACY + "binary_logits[float32-False-1]"),
    Mutation("0 times inf in binary", "cpu/binary_kernels.py",
             "value = zero_where_zero(neg, neg * softplus) +", "value = neg * softplus +",
             SPECIAL + "binary_logits_of_special_values[float32-weights0]"),
    Mutation("1 - p from the clipped p", ROW,
             "clipped(1.0 - p, bounds, where_less)", "1.0 - clipped(p, bounds, where_less)",
             ACCURACY + "binary_probabilities[float32-1e-15-False]"),
    Mutation("cost of p = 0 not held at 100", FORMULAS,
             "where_less(most, high, most, high)", "where_less(most, high, high, high)",
             ACCURACY + "binary_probabilities[float32-None-False]"),
    Mutation("gradient divided by less than 1e-12", FORMULAS,
             "return where_less(p, floor, floor, p)", "return p",
             ACCURACY + "binary_probabilities[float32-None-False]"),
]  # fmt: skip

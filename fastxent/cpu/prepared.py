"""Prepared small losses: an earlier call has selected the kernel and all arguments but arrays.

The bits are those of `launch.py` and `binary.py`, where one chunk is one call of the same kernel.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

from fastxent.cpu import arguments
from fastxent.cpu.arguments import WeightArrays, label_mask
from fastxent.cpu.binary import select as select_binary
from fastxent.cpu.blocks import Array, row_cost, rows_at_once, rows_converted_at_once
from fastxent.cpu.launch import kernel_of, pack_row_weights, scan_kernel, select, total
from fastxent.records import Call, Weights


def _order(call: Call) -> Callable[[Sequence[Array]], Sequence[Any]]:
    """Return a function from the outputs of a call to those of its kernel, with absent ones."""
    absent, outputs = arguments.NO_OUTPUTS[call.compute.char], call.outputs[1:]
    places = [k for k, array in enumerate(outputs) if array is not None]
    at = {k: len(absent) + n for n, k in enumerate(places)}
    pick = operator.itemgetter(*[at.get(k, k) for k in range(len(absent))])
    return lambda arrays: pick((*absent, *arrays))


class PreparedRows:
    """A kind of call: types, classes, layout, options, and which weights and outputs there are.

    A call of up to `max_size` elements is one kernel call.
    """

    def __init__(self, call: Call, is_mean: bool, check: bool) -> None:
        assert call.target is not None
        labels = call.target.labels
        self._compute, self._classes = call.compute, call.x.shape[-1]
        self._is_soft, self._of_logits = labels is None, call.clip is None
        mask = -1 if labels is None else label_mask(labels.dtype)
        self._options = arguments.pack_options(call.options, self._classes, mask)
        self._smoothing, self._is_mean, self._check = call.options.label_smoothing, is_mean, check
        packed = self._pack(call.weights)
        # The weights of all classes; None if they depend on the weights of each call.
        is_constant = call.weights.class_weight is None or not packed.row_weight.size
        self._of_classes = packed[2:] if is_constant else None
        self._absent_weight = packed.class_weight[:0]
        selection = select(call, self._options)
        _, self._extra, operands, cost = selection
        self._kernel, self._scan = kernel_of(call, selection), scan_kernel()
        self._outputs = _order(call)
        rows = rows_at_once(cost or row_cost(self._classes))
        plane = None if operands.planes is None else operands.planes[0]
        self.is_one_call = plane is None or len(plane) == 1
        if operands.rows is None and plane is None:
            # The caller converts, as `blocks.py` does where planes are small.
            self.is_one_call = operands.types[0] == call.x.dtype and call.x.ndim > 2
            rows = rows_converted_at_once(self._classes)
        self.max_size = rows * self._classes

    def __call__(
        self, x: Array, target: Array, class_weight: Array | None, sample_weight: Array | None,
        normalizer: float | None, outputs: Sequence[Array],
    ) -> float | None:  # fmt: skip
        """Fill the outputs; return Σ of the row losses / divisor, which `normalizer` may replace.

        Weights are float64. Returns None, before anything is written, if a label is bad or no row
        is active.
        """
        n, absent = len(x), self._absent_weight
        if not n:
            return None
        w = absent if class_weight is None else class_weight
        u = absent if sample_weight is None else sample_weight
        divisor = normalizer if self._is_mean else 1.0
        if self._is_soft:
            if divisor is None:
                divisor = float(n) if sample_weight is None else total(sample_weight, self._compute)
        elif self._check or divisor is None:
            of_labels = w, u, absent, 1, 0.0
            counted, bad = self._scan(target, self._classes, of_labels, self._options, 0, n)
            if bad >= 0 and self._check:
                return None
            divisor = counted if divisor is None else divisor
        if not divisor:
            return None
        of_classes = self._of_classes
        if of_classes is None:
            of_classes = self._pack(Weights(class_weight, sample_weight))[2:]
        losses: float = self._kernel(
            x, target, (w, u, *of_classes), self._options, *self._extra, divisor,
            self._outputs(outputs), 0, n,
        )  # fmt: skip
        return losses / divisor

    def _pack(self, weights: Weights) -> WeightArrays:
        return pack_row_weights(
            weights, self._smoothing, self._is_soft, self._of_logits, self._classes, self._compute
        )


class PreparedElements:
    """The same for a binary loss of elements, with a weight per element or none."""

    is_one_call, max_size = True, rows_at_once()

    def __init__(self, call: Call, is_mean: bool, check: bool) -> None:
        self._is_mean, char = is_mean, call.compute.char
        self._kernel, self._weighted, self._extra = select_binary(call, (char, char))
        self._one = arguments.constant_weight(None, char)
        self._outputs = _order(call)

    def __call__(
        self, x: Array, target: Array, weight: Array | None, pos_weight: Array | None,
        normalizer: None, outputs: Sequence[Array],
    ) -> float | None:  # fmt: skip
        """Fill the outputs; return Σ of the losses / divisor, or None as `PreparedRows` does."""
        n, weights, one = len(x), None, self._one
        if not n:
            return None
        if self._weighted:
            weights = (
                *((one, 0) if weight is None else (weight, 1)),
                *((one, 0) if pos_weight is None else (pos_weight, 1)),
            )
        divisor = float(n) if self._is_mean else 1.0
        losses: float = self._kernel(
            x, target, weights, 1.0 / divisor, *self._extra, self._outputs(outputs), 0, n
        )
        return losses / divisor


def prepare(call: Call, is_mean: bool, check: bool) -> PreparedRows | PreparedElements | None:
    """Prepare calls like this one; None if such a call takes more than one kernel call.

    All arrays with one number per class must have the type of the arithmetic.
    """
    kind = PreparedRows if call.function.has_rows else PreparedElements
    prepared = kind(call, is_mean, check)
    return prepared if prepared.is_one_call else None

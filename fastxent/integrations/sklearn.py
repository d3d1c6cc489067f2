"""scikit-learn's LogisticRegression, with loss, gradient and Hessian by fastxent's kernels.

Only the objective of the solvers "lbfgs" and "newton-cg" is another. All else is the code of the
scikit-learn that is installed: parameters, checks, warnings, solvers, attributes.
"""

import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn import linear_model
from sklearn.base import _fit_context
from sklearn.linear_model import _logistic
from sklearn.linear_model._linear_loss import LinearModelLoss

from fastxent import (
    binary_cross_entropy_with_logits,
    errors,
    linear_cross_entropy,
    linear_cross_entropy_hvp,
)

__all__ = ["LogisticRegression"]

Array = NDArray[Any]
# The size of a block of X for two classes: the fastest, with twice that, of 128 KiB to 8 MiB.
_BLOCK_BYTES = 1 << 21
# W and b or None: derivatives too, and what they are multiplied by.
Parameters = tuple[Array, Any]


class _Multinomial:
    """The mean cross-entropy of X·Wᵀ + b at W and b, with its derivatives by these."""

    def __init__(self, x: Array, y: Array, sample_weight: Any, parameters: Parameters) -> None:
        weights, bias = parameters
        self.arguments = x, weights, y.astype(np.intp)  # the classes, which come as floats
        self.options: dict[str, Any] = {
            "linear_bias": bias, "sample_weight": sample_weight,
            "ignore_index": None, "check_target": False,
        }  # fmt: skip
        self.wrt = ("linear_weight",) if bias is None else ("linear_weight", "linear_bias")

    def loss(self) -> Any:
        return linear_cross_entropy(*self.arguments, **self.options)

    def loss_and_gradient(self) -> tuple[Any, Parameters]:
        loss, grad = linear_cross_entropy(
            *self.arguments, **self.options, wrt=self.wrt, return_grad=True
        )
        return loss, grad[1:]

    def hessian(self) -> Callable[[Parameters], Parameters]:
        """Return the function that multiplies by the Hessian."""

        def times(vector: Parameters) -> Parameters:
            product: tuple[Any, ...] = linear_cross_entropy_hvp(
                *self.arguments, (None, *vector), **self.options, wrt=self.wrt
            )
            return product[1], product[2]

        return times


class _Binary:
    """The mean binary cross-entropy of X·w + b at w (1, F) and b (1,), with its derivatives.

    X is read block by block: the second product finds in the cache what the first has read.
    """

    def __init__(self, x: Array, y: Array, sample_weight: Any, parameters: Parameters) -> None:
        self.x, self.y, self.weight, self.parameters = x, y, sample_weight, parameters
        self.total = len(x) if sample_weight is None else float(sample_weight.sum())
        n_rows = max(_BLOCK_BYTES // (x.shape[1] * x.itemsize), 1)
        self.blocks = [slice(lo, lo + n_rows) for lo in range(0, len(x), n_rows)]

    def _logits(self, rows: slice, parameters: Parameters) -> Array:
        weights, bias = parameters
        logits: Array = self.x[rows] @ weights[0]
        return logits if bias is None else np.add(logits, bias, out=logits)

    def _losses(self, **outputs: Any) -> Iterator[Any]:
        """Yield each block's summed loss, and the outputs."""
        for rows in self.blocks:
            yield binary_cross_entropy_with_logits(
                self._logits(rows, self.parameters), self.y[rows], reduction="sum",
                weight=None if self.weight is None else self.weight[rows], **outputs,
            )  # fmt: skip

    def _by_parameters(self, blocks: Iterable[Array]) -> Parameters:
        """Derivatives by w and b of a mean whose derivatives by the logits are these."""
        weights, bias = np.zeros(self.x.shape[1]), 0.0
        for rows, d in zip(self.blocks, blocks, strict=True):
            weights += d @ self.x[rows]
            bias += float(d.sum())
        return weights / self.total, bias / self.total

    def loss(self) -> float:
        return sum(map(float, self._losses())) / self.total

    def loss_and_gradient(self) -> tuple[float, Parameters]:
        losses: list[float] = []

        def gradients() -> Iterator[Array]:
            for loss, d in self._losses(return_grad=True):
                losses.append(float(loss))
                yield d

        parts = self._by_parameters(gradients())
        return sum(losses) / self.total, parts

    def hessian(self) -> Callable[[Parameters], Parameters]:
        """Return the function that multiplies by the Hessian."""
        diagonal = [h for _, h in self._losses(return_hess=True)]

        def times(vector: Parameters) -> Parameters:
            logits = (self._logits(rows, vector) for rows in self.blocks)
            return self._by_parameters(map(np.multiply, diagonal, logits))

        return times


class _Objective(LinearModelLoss):  # type: ignore[misc]
    """The mean loss plus λ/2·‖W‖² as a function of flat coefficients.

    These are W with b as its last column, the classes of a feature next to each other. The methods
    and their arguments are scikit-learn's; the threads are fastxent's and the BLAS library's.
    """

    def _split(self, coef: Array) -> Parameters:
        n_rows = self.base_loss.n_classes if self.base_loss.is_multiclass else 1
        matrix = coef.reshape((n_rows, -1), order="F")
        return (matrix[:, :-1], matrix[:, -1]) if self.fit_intercept else (matrix, None)

    def _join(self, parts: Parameters, coef: Array, strength: float) -> Array:
        """Derivatives of the mean as flat as `coef`, with λ·W of that added."""
        flat = np.empty_like(coef)
        weights, bias = self._split(flat)
        np.multiply(strength, self._split(coef)[0], out=weights)
        weights += parts[0]
        if bias is not None:
            bias[:] = parts[1]
        return flat

    def _problem(self, coef: Array, x: Array, y: Array, sample_weight: Any) -> Any:
        kind = _Multinomial if self.base_loss.is_multiclass else _Binary
        return kind(x, y, sample_weight, self._split(coef.astype(x.dtype, copy=False)))

    def _penalty(self, coef: Array, strength: float) -> float:
        return float(self.l2_penalty(self._split(coef)[0], strength))

    def loss(
        self, coef: Array, X: Array, y: Array, sample_weight: Any = None,
        l2_reg_strength: float = 0.0, n_threads: int = 1,
    ) -> float:  # fmt: skip
        mean = self._problem(coef, X, y, sample_weight).loss()
        return float(mean) + self._penalty(coef, l2_reg_strength)

    def loss_gradient(
        self, coef: Array, X: Array, y: Array, sample_weight: Any = None,
        l2_reg_strength: float = 0.0, n_threads: int = 1,
    ) -> tuple[float, Array]:  # fmt: skip
        mean, parts = self._problem(coef, X, y, sample_weight).loss_and_gradient()
        grad = self._join(parts, coef, l2_reg_strength)
        return float(mean) + self._penalty(coef, l2_reg_strength), grad

    def gradient(self, *arguments: Any) -> Array:
        return self.loss_gradient(*arguments)[1]

    def gradient_hessian_product(
        self, coef: Array, X: Array, y: Array, sample_weight: Any = None,
        l2_reg_strength: float = 0.0, n_threads: int = 1,
    ) -> tuple[Array, Callable[[Array], Array]]:  # fmt: skip
        problem = self._problem(coef, X, y, sample_weight)
        grad = self._join(problem.loss_and_gradient()[1], coef, l2_reg_strength)
        times = problem.hessian()

        def product(vector: Array) -> Array:
            parts = times(self._split(vector.astype(X.dtype, copy=False)))
            return self._join(parts, vector, l2_reg_strength)

        return grad, product


def _rebound(function: Any, **objects: Any) -> Any:
    """A copy of a function to which these names of its module mean other objects."""
    if missing := objects.keys() - set(function.__code__.co_names):
        raise errors.unknown_scikit_learn(sklearn.__version__, function.__name__, *missing)
    copy = types.FunctionType(
        function.__code__, function.__globals__ | objects, function.__name__,
        function.__defaults__, function.__closure__,
    )  # fmt: skip
    copy.__kwdefaults__, copy.__doc__ = function.__kwdefaults__, function.__doc__
    return copy


# scikit-learn has no parameter for the objective. The function that runs a solver finds its class
# by name, and `fit` that function: copies of these two find others, and no other estimator does.
_run_ours = _rebound(_logistic._logistic_regression_path, LinearModelLoss=_Objective)


def _run_solver(X: Any, y: Any, *, solver: str = "lbfgs", **options: Any) -> Any:
    """Run a solver on our objective, or on scikit-learn's where ours does not apply."""
    is_ours = solver in ("lbfgs", "newton-cg") and isinstance(X, np.ndarray)
    run = _run_ours if is_ours else _logistic._logistic_regression_path
    return run(X, y, solver=solver, **options)


class LogisticRegression(linear_model.LogisticRegression):  # type: ignore[misc]
    r"""`sklearn.linear_model.LogisticRegression`, fitted by fastxent's kernels.

    With N samples of weight u, C the inverse strength of the penalty and l the cross-entropy of
    :math:`x W^{T} + b`, the minimum of

    .. math::
        L(W, b) = \frac{1}{D} \sum_i u_i\, l_i + \frac{1}{2 C D} \lVert W \rVert^2, \qquad
        \frac{\partial L}{\partial W} = \frac{1}{D}\, d^{T} X + \frac{1}{C D} W, \qquad
        D = \sum_i u_i

    with the rows :math:`d_i = u_i\,(p_i - e_{y_i})`, or for two classes
    :math:`d_i = u_i\,(σ(x_i) - y_i)`.

    Parameters
    ----------
    **parameters
        Those of `sklearn.linear_model.LogisticRegression`, of the release that is installed.

    Attributes
    ----------
    coef\_, intercept\_, classes\_, n_iter\_, n_features_in\_, feature_names_in_
        Likewise.

    Raises
    ------
    ImportError
        On import, if scikit-learn's own code is not as this class knows it.

    Notes
    -----
    The solvers "lbfgs", the default, and "newton-cg" use fastxent if X is dense. Every other
    solver, and with it every L1 penalty, sparse X and arrays of other libraries are left to
    scikit-learn. The iterations are scikit-learn's own: coefficients differ by rounding.

    No more than a block of logits is held. X is not copied if it is C-contiguous and float32 or
    float64, so it may be a memory map; its rows are read block by block.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.4.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastxent.integrations.sklearn import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=200).fit(X, y)
    >>> round(model.score(X, y), 4)
    0.9733
    """

    fit = _fit_context(prefer_skip_nested_validation=True)(
        _rebound(
            linear_model.LogisticRegression.fit.__wrapped__, _logistic_regression_path=_run_solver
        )
    )

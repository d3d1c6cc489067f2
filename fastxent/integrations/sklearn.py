"""scikit-learn's LogisticRegression, with loss, gradient and Hessian by fastxent's kernels.

Only the objective of the solvers "lbfgs" and "newton-cg" is replaced. Parameters, checks, warnings,
solvers and attributes are those of the installed scikit-learn.
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
# The size of a block of X for two classes: 2 and 4 MiB were the fastest from 128 KiB to 8 MiB.
_BLOCK_BYTES = 1 << 21
# W, and b or None; also derivatives by them, and vectors.
Parameters = tuple[Array, Any]


class _Multinomial:
    """The mean cross-entropy of X·Wᵀ + b at W and b, and its derivatives."""

    def __init__(self, x: Array, y: Array, sample_weight: Any, parameters: Parameters) -> None:
        weights, bias = parameters
        self.arguments = x, weights, y.astype(np.intp)  # scikit-learn passes classes as floats
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
    """The mean binary cross-entropy of X·w + b at w (1, F) and b (1,), and its derivatives.

    X is read block by block, so that the second product reads its block from the CPU cache.
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
        """Compute derivatives of the mean by w and b from its derivatives by the logits."""
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

    The coefficients are W with b as its last column, in column-major order. The methods and their
    arguments are scikit-learn's. The threads are those of fastxent and the BLAS library.
    """

    def _split(self, coef: Array) -> Parameters:
        n_rows = self.base_loss.n_classes if self.base_loss.is_multiclass else 1
        matrix = coef.reshape((n_rows, -1), order="F")
        return (matrix[:, :-1], matrix[:, -1]) if self.fit_intercept else (matrix, None)

    def _join(self, parts: Parameters, coef: Array, strength: float) -> Array:
        """Flatten derivatives of the mean like `coef`, and add λ·W."""
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
    """Copy a function, with these global names bound to other objects."""
    if missing := objects.keys() - set(function.__code__.co_names):
        raise errors.unknown_scikit_learn(sklearn.__version__, function.__name__, *missing)
    copy = types.FunctionType(
        function.__code__, function.__globals__ | objects, function.__name__,
        function.__defaults__, function.__closure__,
    )  # fmt: skip
    copy.__kwdefaults__, copy.__doc__ = function.__kwdefaults__, function.__doc__
    return copy


# scikit-learn has no parameter for the objective. The function that runs a solver looks up the
# class of the objective by its global name, and `fit` looks up that function. So both are copied
# with other globals, which affects no other estimator.
_run_ours = _rebound(_logistic._logistic_regression_path, LinearModelLoss=_Objective)


def _run_solver(X: Any, y: Any, *, solver: str = "lbfgs", **options: Any) -> Any:
    """Run a solver on our objective, or on scikit-learn's where ours does not apply."""
    is_ours = solver in ("lbfgs", "newton-cg") and isinstance(X, np.ndarray)
    run = _run_ours if is_ours else _logistic._logistic_regression_path
    return run(X, y, solver=solver, **options)


class LogisticRegression(linear_model.LogisticRegression):  # type: ignore[misc]
    r"""A `sklearn.linear_model.LogisticRegression` that is fitted by fastxent's kernels.

    With N samples of weights u, C the inverse strength of the penalty and l the cross-entropy of
    :math:`x W^{T} + b`, it minimises

    .. math::
        L(W, b) = \frac{1}{D} \sum_i u_i\, l_i + \frac{1}{2 C D} \lVert W \rVert^2, \qquad
        \frac{\partial L}{\partial W} = \frac{1}{D}\, d^{T} X + \frac{1}{C D} W, \qquad
        D = \sum_i u_i

    with the rows :math:`d_i = u_i\,(p_i - e_{y_i})`, or for two classes
    :math:`d_i = u_i\,(σ(x_i) - y_i)`.

    Parameters
    ----------
    **parameters
        Those of the installed `sklearn.linear_model.LogisticRegression`.

    Attributes
    ----------
    coef\_, intercept\_, classes\_, n_iter\_, n_features_in\_, feature_names_in_
        As for `sklearn.linear_model.LogisticRegression`.

    Raises
    ------
    ImportError
        When the module is imported, if the installed scikit-learn is not supported.

    Notes
    -----
    The solvers "lbfgs" (the default) and "newton-cg" use fastxent if X is dense. Other solvers, L1
    penalties, sparse X and arrays of other libraries use scikit-learn's own code. The solvers are
    scikit-learn's, so coefficients differ by rounding only.

    Logits are computed block by block. X is not copied if it is C-contiguous and float32 or
    float64, so it may be a memory map.

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

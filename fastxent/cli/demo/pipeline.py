"""The pipeline of multinomial logistic regression: features to loss, gradient and update.

`Objective` goes from features x to logits, softmax, loss and the gradients of W and b;
`minimise` from these gradients to new W and b.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import fastxent as fx
from fastxent.cli.demo.data import Array

Report = Callable[[int, float, float], None]  # iteration, objective, norm of its gradient


class Objective:
    """Mean loss + ½λ‖W‖², with its gradient, as a function of W (C, K) and b (C,).

    W and b are stored one after the other in a vector θ, their gradients in a second vector, so
    that one line updates both. The gradient buffers are allocated once and reused.
    """

    def __init__(self, x: Array, y: Array, n_classes: int, penalty: float) -> None:
        self.x, self.y, self.penalty = x, y, penalty
        self.shape = n_classes, x.shape[1]
        self.size = n_classes * (x.shape[1] + 1)
        self.grad = np.empty(self.size)
        self.buffers = fx.LinearGrad(None, *self.weight_and_bias(self.grad))

    def weight_and_bias(self, theta: Array) -> tuple[Array, Array]:
        """W and b as views of θ."""
        n_weights = math.prod(self.shape)
        return theta[:n_weights].reshape(self.shape), theta[n_weights:]

    def __call__(self, theta: Array) -> tuple[float, Array]:
        """Return value and gradient at θ; the next call overwrites the gradient."""
        weight, bias = self.weight_and_bias(theta)
        loss, (_, grad_weight, _) = fx.linear_cross_entropy(
            self.x, weight, self.y, linear_bias=bias, wrt=("linear_weight", "linear_bias"),
            grad_out=self.buffers,
        )  # fmt: skip
        grad_weight += self.penalty * weight  # a view of self.grad
        return float(loss + 0.5 * self.penalty * np.vdot(weight, weight)), self.grad

    def lipschitz_constant(self) -> float:
        """An upper bound L of the Hessian's norm, so that a step of 1/L never overshoots.

        In the logits of a row the Hessian is diag(p) - p pᵀ ≤ ½ (D. Böhning, 1992); the map
        [x, 1] from θ to the logits multiplies it by its largest singular value squared.
        """
        mapping = np.column_stack([self.x, np.ones(len(self.x))])
        return float(0.5 * np.linalg.norm(mapping, 2) ** 2 / len(self.x) + self.penalty)


class Minimum(NamedTuple):
    """The result of `minimise`."""

    theta: Array
    value: float
    iterations: int


def minimise(objective: Objective, *, max_iter: int, tol: float, report: Report) -> Minimum:
    """Nesterov's accelerated gradient descent from θ = 0, with restarts.

    Y. Nesterov, "A method for solving the convex programming problem with convergence rate
    O(1/k²)", 1983; B. O'Donoghue and E. Candès, arXiv:1204.3982, for the restarts.
    """
    step = 1.0 / objective.lipschitz_constant()
    theta = ahead = np.zeros(objective.size)
    iteration = age = 0
    while True:
        iteration += 1
        value, grad = objective(ahead)
        grad_norm = float(np.linalg.norm(grad))
        report(iteration, value, grad_norm)
        if grad_norm < tol or iteration == max_iter:
            return Minimum(ahead, value, iteration)
        moved = ahead - step * grad
        velocity = moved - theta
        if grad @ velocity > 0:  # uphill: momentum has overshot, so reset it
            age = 0
        theta, ahead = moved, moved + age / (age + 3) * velocity
        age += 1

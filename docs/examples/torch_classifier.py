"""Train a classifier of handwritten digits twice: with PyTorch's loss and with fastxent's.

A training script only changes its import. This example imports both losses and passes one of them
to `train`; seed, batches, model and optimizer are the same.

The two losses differ by a unit in the last place of float32 (1.2e-7 of the loss), and so do their
gradients. These differences do not grow if the steps are short enough for a steady descent: for
eight seeds, the losses of a step differed by at most 2.4e-7, and with Adam at lr=0.01 by at most
8.3e-7. With steps that are too long, any rounding difference leads to a different training: with
lr=1, losses differed by up to 1.0e-3, and with Adam at lr=0.1 they were unrelated.
"""

import statistics
import time
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastxent as fx
from fastxent.integrations.torch import CrossEntropyLoss

LOSSES = {"torch": torch.nn.CrossEntropyLoss, "fastxent": CrossEntropyLoss}
BATCH = 64
EPOCHS = 20
ROUNDS = 3  # timed trainings
# Rows and classes of random data for a larger last layer, which is only timed; its batch size.
LARGE, LARGE_BATCH = (1024, 5000), 256


class Training(NamedTuple):
    """A trained model, the loss of each step, and the seconds of the training."""

    model: Any
    losses: list[float]
    seconds: float


class Figures(NamedTuple):
    """The printed results, by the name of the loss except for the difference."""

    losses: dict[str, list[float]]
    difference: float  # the largest over all steps
    accuracy: dict[str, float]
    seconds: dict[str, dict[str, float]]


def train(
    loss_class: Any, x: Any, y: Any, n_classes: int, batch: int = BATCH, epochs: int = EPOCHS
) -> Training:
    """Train an MLP with gradient descent."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], 64), torch.nn.Tanh(), torch.nn.Linear(64, n_classes)
    )
    criterion = loss_class()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    start = time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            loss = criterion(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return Training(model, losses, time.perf_counter() - start)


def seconds_of_trainings(*data: Any) -> dict[str, float]:
    """Median seconds with each loss, timed in turns so that other load affects both."""
    seconds: dict[str, list[float]] = {name: [] for name in LOSSES}
    for _ in range(ROUNDS):
        for name, loss_class in LOSSES.items():
            seconds[name].append(train(loss_class, *data).seconds)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> Figures:
    """Train with both losses, compare and time them, and print the results."""
    # One thread each: such small batches gain little from more threads.
    torch.set_num_threads(1)
    fx.set_num_threads(1)
    pixels, digits = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(digits), random_state=0
    )

    # These trainings are not timed: with an empty cache, the kernels are compiled first.
    trained = {name: train(loss_class, x, y, 10) for name, loss_class in LOSSES.items()}
    losses = {name: training.losses for name, training in trained.items()}
    pairs = list(zip(losses["torch"], losses["fastxent"], strict=True))
    # Relative for losses above 1, absolute for smaller ones.
    differences = [abs(a - b) / max(1.0, a) for a, b in pairs]
    accuracy = {
        name: (training.model(x_test).argmax(1) == y_test).float().mean().item()
        for name, training in trained.items()
    }

    print(f"{len(y)} digits to train, {len(y_test)} to test; float32\n")
    print(f"{'':20}{'torch':>12}{'fastxent':>12}{'difference':>14}")
    for step in (0, 1, 2, 10, 100, len(pairs) - 1):
        a, b = pairs[step]
        print(f"{f'loss of step {step}':20}{a:12.7f}{b:12.7f}{differences[step]:14.1e}")
    print(f"{f'largest of {len(pairs)} steps':44}{max(differences):14.1e}")
    print(f"{'test accuracy':20}{accuracy['torch']:12.4f}{accuracy['fastxent']:12.4f}\n")

    n_rows, n_classes = LARGE
    torch.manual_seed(0)
    large = torch.randn(n_rows, 64), torch.randint(n_classes, (n_rows,))
    seconds = {
        f"logits ({BATCH}, 10)": seconds_of_trainings(x, y, 10),
        f"logits ({LARGE_BATCH}, {n_classes})": seconds_of_trainings(
            *large, n_classes, LARGE_BATCH, 1
        ),
    }
    print(f"{'seconds of a training':20}{'torch':>11}{'fastxent':>12}{'speed-up':>14}")
    for name, medians in seconds.items():
        a, b = medians["torch"], medians["fastxent"]
        print(f"{name:20}{a:12.3f}{b:12.3f}{f'{a / b:.2f}x':>14}")
    return Figures(losses, max(differences), accuracy, seconds)


if __name__ == "__main__":
    main()

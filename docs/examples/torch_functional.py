"""Train a network twice: with torch.nn.functional and with fastxent's functions.

A training script only changes its import, from torch.nn.functional to
fastxent.integrations.torch.functional. This example imports both and passes one of them to `train`
as `F`; seed, batches, network and optimizer are the same. The loss of a step is the sum of three:
for the classes, for the tags, and for the softened probabilities of a teacher.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional

import fastxent.integrations.torch.functional

MODULES = {"torch": torch.nn.functional, "fastxent": fastxent.integrations.torch.functional}
STEPS, BATCH = 300, 64
FEATURES, CLASSES, TAGS = 32, 20, 8


class Figures(NamedTuple):
    """The printed results: losses by the name of the library, and their largest difference."""

    losses: dict[str, list[float]]
    difference: float


def train(F: Any) -> list[float]:
    """Train with gradient descent; return the loss of each step."""
    torch.manual_seed(0)
    teacher = torch.randn(FEATURES, CLASSES + TAGS)
    hidden = torch.nn.Linear(FEATURES, 64)
    heads = torch.nn.Linear(64, CLASSES + TAGS)
    optimizer = torch.optim.SGD([*hidden.parameters(), *heads.parameters()], lr=0.2)
    losses = []
    for _ in range(STEPS):
        x = torch.randn(BATCH, FEATURES)
        expected, present = (x @ teacher).split([CLASSES, TAGS], dim=1)
        logits, tags = heads(F.gelu(hidden(x))).split([CLASSES, TAGS], dim=1)
        softened = F.softmax(expected / 4, dim=1) * F.log_softmax(logits / 4, dim=1)
        loss = (
            F.cross_entropy(logits, expected.argmax(1), label_smoothing=0.1)
            + F.binary_cross_entropy_with_logits(tags, (present > 0).float())
            - softened.sum(1).mean()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> Figures:
    """Train with both modules, compare the losses, and print the results."""
    torch.set_num_threads(1)  # such small batches gain little from more threads
    losses = {name: train(module) for name, module in MODULES.items()}
    pairs = list(zip(losses["torch"], losses["fastxent"], strict=True))
    differences = [abs(a - b) / a for a, b in pairs]
    print(f"{'':20}{'torch':>12}{'fastxent':>12}{'difference':>14}")
    for step in (0, 1, 10, 100, len(pairs) - 1):
        a, b = pairs[step]
        print(f"{f'loss of step {step}':20}{a:12.7f}{b:12.7f}{differences[step]:14.1e}")
    print(f"{f'largest of {len(pairs)} steps':44}{max(differences):14.1e}")
    return Figures(losses, max(differences))


if __name__ == "__main__":
    main()

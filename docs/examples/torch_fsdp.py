"""Train with PyTorch's FSDP2, where parameters are sharded over processes, and fastxent's losses.

`python docs/examples/torch_fsdp.py RANKS` starts that many processes on this machine. Each of them
has a shard of the parameters; FSDP gathers the parameters of a layer for its forward and its
backward pass, and frees them in between. The example compares losses and trained parameters with
those of the modules of `torch.nn`: for the loss of logits, and for a linear layer fused with its
loss, whose weights are sharded too.
"""

import argparse
import os
import socket

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from fastxent.integrations.torch import CrossEntropyLoss, LinearCrossEntropyLoss

FEATURES, HIDDEN, CLASSES, ROWS = 12, 16, 40, 24


class Classifier(nn.Module):
    """Two layers and the loss of their logits."""

    def __init__(self, loss):
        super().__init__()
        self.hidden, self.last = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, CLASSES)
        self.loss = loss()

    def forward(self, x, target):
        """The loss of the rows x."""
        return self.loss(self.last(self.hidden(x).relu()), target)


class HeadClassifier(nn.Module):
    """A layer and a head that computes the loss without storing all logits."""

    def __init__(self, head):
        super().__init__()
        self.hidden = nn.Linear(FEATURES, HIDDEN)
        self.head = head(HIDDEN, CLASSES, bias=True)

    def forward(self, x, target):
        """The loss of the rows x."""
        return self.head(self.hidden(x).relu(), target)


PAIRS = {
    "CrossEntropyLoss": (Classifier, CrossEntropyLoss, nn.CrossEntropyLoss),
    "LinearCrossEntropyLoss": (HeadClassifier, LinearCrossEntropyLoss, nn.LinearCrossEntropyLoss),
}


def trained(build, loss, steps=3):
    """Train for some steps; return their losses and the gathered parameters."""
    torch.manual_seed(0)
    model = build(loss)
    for layer in list(model.children()):
        if list(layer.parameters()):
            fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    # Each process has different rows.
    generator = torch.Generator().manual_seed(distributed.get_rank())
    losses = []
    for _ in range(steps):
        x = torch.randn(ROWS, FEATURES, generator=generator)
        target = torch.randint(0, CLASSES, (ROWS,), generator=generator)
        value = model(x, target)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.detach())
    parameters = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    return losses, [p.detach() for p in parameters]


def work(rank, ranks, port):
    """Run one process: compare both losses with PyTorch's own."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    distributed.init_process_group("gloo", rank=rank, world_size=ranks)
    for name, (build, ours, theirs) in PAIRS.items():
        found, wanted = trained(build, ours), trained(build, theirs)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        if rank == 0:
            last = found[0][-1].item()
            print(f"{name}, ranks: {ranks}: loss {last:.6f} after 3 steps, as torch.nn's")
    distributed.destroy_process_group()


def main():
    """Start the processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ranks", type=int, nargs="?", default=2)
    ranks = parser.parse_args().ranks
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (ranks, port), ranks)


if __name__ == "__main__":
    main()

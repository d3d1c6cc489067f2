"""Estimates of how long a step takes, from the steps before it."""

import collections
import statistics

KERNEL, GRAPH, REST = 3.0, 12.0, 2.0  # seconds, before any has been measured


class Costs:
    """Estimates from earlier steps: compilation of kernels and graphs, and the rest by group."""

    def __init__(self):
        self.kernels, self.graphs = [], []
        self.rest = collections.defaultdict(list)

    def estimate(self, step):
        """Seconds that a step will take."""
        compiled = step.kernels * _mean(self.kernels, KERNEL)
        compiled += step.graphs * _mean(self.graphs, GRAPH)
        return compiled + _mean(self.rest[step.group], REST)

    def learn(self, step, rows, seconds):
        """Update the estimates by a step; its rows have the seconds of first calls."""
        first = {row["peer"]: row["first_s"] for row in rows if "first_s" in row}
        kernels = sum(s for peer, s in first.items() if step.kernels)
        graphs = sum(s for peer, s in first.items() if step.graphs and peer == "torch_compile")
        if kernels:
            self.kernels.append(kernels / step.kernels)
        if graphs:
            self.graphs.append(graphs / step.graphs)
        self.rest[step.group].append(seconds - kernels - graphs)


def _mean(values, before_any):
    return statistics.fmean(values) if values else before_any

"""The arrays that the compared calls use."""


class Arrays:
    """Sets of logits, labels, a buffer for the result, and what else a job needs.

    Together they are several times as large as the caches, and each call uses the next set.
    `extra` is a second array of the logits' shape: a copy of the logits for gradients in place,
    the target's probabilities, a vector, or a buffer for probabilities; None for other jobs.
    """

    def __init__(self, gpu, shape, dtype, job="cross_entropy", small=False):
        logits = [gpu.logits(shape.logits, dtype)]
        sets = 2 if small else min(64, max(2, -(-4 * gpu.l2 // (2 * gpu.bytes_of(logits[0])))))
        logits += [gpu.logits(shape.logits, dtype) for _ in range(sets - 1)]
        self.gpu, self.shape, self.logits = gpu, shape, logits
        self.labels = [gpu.labels(shape.labels, shape.classes) for _ in range(sets)]
        self.buffers = [gpu.like(x) for x in logits]
        make = {
            "cross_entropy": gpu.like, "probs": gpu.like,
            "soft_targets": lambda x: gpu.probabilities(shape.logits, dtype),
            "hvp": lambda x: gpu.logits(shape.logits, dtype),
        }.get(job, lambda x: None)  # fmt: skip
        self.extra = [make(x) for x in logits]
        if job == "cross_entropy":
            for k in range(sets):
                self.renew(k)

    def __len__(self):
        return len(self.logits)

    def renew(self, k):
        """Restore the logits that a gradient in place has overwritten."""
        self.gpu.copy(self.logits[k], self.extra[k])

"""A GPU by PyTorch: memory, timing and its properties."""

import subprocess


class Gpu:
    """Memory, time and facts of a GPU, by PyTorch."""

    device = "cuda"

    def __init__(self):
        import torch

        self.torch = torch
        properties = torch.cuda.get_device_properties(0)
        self.l2, self.processors = properties.L2_cache_size, properties.multi_processor_count
        torch.manual_seed(0)

    def facts(self):
        """Name, compute capability, memory and clocks of the GPU."""
        query = [
            "nvidia-smi",
            "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit",
        ]
        try:
            text = subprocess.run([*query, "--format=csv"], capture_output=True, text=True).stdout
        except OSError:
            text = ""
        properties = self.torch.cuda.get_device_properties(0)
        return {
            "name": properties.name, "capability": [properties.major, properties.minor],
            "memory": properties.total_memory, "processors": self.processors,
            "l2": self.l2, "nvidia_smi": text.split("\n"), "cuda": self.torch.version.cuda,
        }  # fmt: skip

    def free(self):
        """Bytes of free memory."""
        self.torch.cuda.empty_cache()
        return self.torch.cuda.mem_get_info()[0]

    def logits(self, shape, dtype):
        """Normal logits with a standard deviation of 3."""
        logits = self.torch.empty(shape, dtype=getattr(self.torch, dtype), device=self.device)
        return logits.normal_(0, 3)

    def labels(self, shape, classes):
        """Random classes."""
        return self.torch.randint(classes, shape, device=self.device)

    def probabilities(self, shape, dtype):
        """Random probabilities of the classes of each row."""
        return self.torch.softmax(self.logits(shape, dtype), 1)

    def like(self, array):
        """An uninitialised array of the same shape and type."""
        return self.torch.empty_like(array)

    def bytes_of(self, array):
        """The size of an array."""
        return array.nbytes

    def copy(self, source, out, length=None):
        """Copy all or the first of the first axis, device to device."""
        out[:length].copy_(source[:length])

    def host(self, array):
        """The array as a NumPy array in float64."""
        return array.detach().double().cpu().numpy()

    def seconds(self, call):
        """GPU time, in seconds, of the work that a call enqueues."""
        events = [self.torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self.torch.cuda._sleep(2_000_000)  # about a millisecond, while the call is enqueued
        events[0].record()
        answer = call()
        events[1].record()
        events[1].synchronize()
        del answer  # alive until here, so that its memory is not reused before
        return events[0].elapsed_time(events[1]) / 1e3

    def wait(self):
        """Wait until all work is done."""
        self.torch.cuda.synchronize()

    def extra_bytes(self, call):
        """Peak memory of a call beyond its inputs, its result included."""
        self.wait()
        self.torch.cuda.reset_peak_memory_stats()
        before = self.torch.cuda.memory_allocated()
        answer = call()
        self.wait()
        del answer
        return self.torch.cuda.max_memory_allocated() - before

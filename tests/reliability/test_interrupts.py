"""Ctrl-C raises KeyboardInterrupt soon, and no thread writes to the caller's arrays after it."""

import time

import pytest
from scripts import python

from fastxent.cpu import helpers, threads

# A shell starts background processes with Ctrl-C ignored.
BEFORE = """
        import os, random, signal, sys, threading, time
        import numpy as np
        import fastxent as fx
        signal.signal(signal.SIGINT, signal.default_int_handler)
        fx.set_num_threads(2)

        def interrupt(seconds):
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
"""


def test_interrupts_in_calls_with_buffers(effort, count):
    """At any moment of a call; afterwards the buffer does not change any more."""
    script = """
        row = np.linspace(0, 1, 1000, dtype=np.float32)
        logits = np.broadcast_to(row, (16_000, 1000))
        labels, out = np.zeros(len(logits), int), np.zeros(logits.shape, np.float32)
        weight, x = np.ones((300, 1000), np.float32), np.zeros((3000, 1000), np.float32)
        grads = fx.LinearGrad(np.zeros_like(x), np.zeros_like(weight), None)
        binary = np.zeros(out.shape, np.int8)  # converted block by block
        calls = [
            (out, lambda: fx.cross_entropy(logits, labels, grad_out=out)),
            (out, lambda: fx.softmax(logits, out=out)),
            (out, lambda: fx.binary_cross_entropy_with_logits(logits, binary, grad_out=out)),
            (grads[0], lambda: fx.linear_cross_entropy(x, weight, labels[:3000], grad_out=grads)),
        ]
        for _, call in calls: call()
        good, moments = 0, random.Random(1)
        for k in range(int(sys.argv[1])):
            written, call = calls[k % len(calls)]
            due = moments.uniform(0.01, 0.08)
            begin = time.perf_counter()
            try:
                interrupt(due)
                while True: call()
            except KeyboardInterrupt:
                soon = time.perf_counter() - begin < due + 1
                written.fill(7)
                time.sleep(0.02)
                good += soon and bool((written == 7).all())
        print(good)
    """
    tried = effort(20, 100)
    count("interrupts", int(python(BEFORE + script, str(tried))), tried)


def test_an_interrupt_in_one_long_call(count):
    """A call with seconds of work ends within one second, and no thread works after it."""
    script = """
        row = np.linspace(0, 1, 4000, dtype=np.float32)
        logits = np.broadcast_to(row, (4_000_000, 4000))
        labels = np.broadcast_to(np.int64(0), len(logits))
        fx.cross_entropy(logits[:9], labels[:9])
        begin = time.perf_counter()
        try:
            interrupt(0.3)
            fx.cross_entropy(logits, labels)
        except KeyboardInterrupt:
            soon = time.perf_counter() - begin < 1.3
            busy = time.process_time()
            time.sleep(0.5)
            print(soon, time.process_time() - busy < 0.1)
    """
    count("interrupts", int(python(BEFORE + script) == "True True\n"), 1)


def test_interrupts_while_waiting_are_kept():
    """After a second Ctrl-C, while helpers finish, they do not write after the call either."""

    class Interrupted(helpers.Job):
        waits = 0

        def finish(self):
            self.waits += 1
            if self.waits < 3:
                raise KeyboardInterrupt
            super().finish()

    done = []
    job = Interrupted(lambda: done.append(time.sleep(0.1)))
    helpers.submit(job)
    while job._call:
        time.sleep(0.001)
    with pytest.raises(KeyboardInterrupt):
        threads._finish([job])
    assert done == [None]

"""Tensors are left as they were: resizable, and their storage free to be freed; never read beyond.

A storage that ends before its tensor does is an error that names the argument, never a number.
"""

import importlib
import itertools
import mmap
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from lost_memory import freed, shrunk
from scripts import python

import fastxent as fx

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
from fastxent.integrations import torch as modules  # noqa: E402 - wants PyTorch

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32]


def arguments(kind=torch.float32):
    """Tensors for every parameter that takes one, new ones each time."""
    generator = torch.Generator().manual_seed(5)

    def numbers(*shape):
        return torch.rand(shape, generator=generator).mul(3).to(kind)

    floats = kind if kind.is_floating_point else torch.float64
    return {
        "logits": numbers(4, 3), "probs": numbers(4, 3).to(floats) / 4, "x": numbers(4, 5),
        "linear_weight": numbers(3, 5), "linear_bias": numbers(3),
        "labels": torch.tensor([1, 0, 2, 2]), "soft": torch.full((4, 3), 0.25),
        "weight": torch.tensor([1.0, 2.0, 0.5]),
        "sample_weight": torch.tensor([1.0, 0.0, 2.0, 1.0]),
        "pos_weight": torch.tensor([2.0, 1.0, 3.0]), "normalizer": torch.tensor(3.0),
    }  # fmt: skip


# Of each function, the parameters that tensors come for, by their names above.
CALLS = {
    "softmax": {"logits": "logits"},
    "log_softmax": {"logits": "logits"},
    "logsumexp": {"logits": "logits"},
    "cross_entropy": {"logits": "logits", "target": "labels", "weight": "weight",
                      "sample_weight": "sample_weight", "normalizer": "normalizer"},
    "cross_entropy of probabilities": {"logits": "logits", "target": "soft", "weight": "weight"},
    "categorical_cross_entropy": {"probs": "probs", "target": "labels", "weight": "weight",
                                  "sample_weight": "sample_weight"},
    "linear_cross_entropy": {"x": "x", "linear_weight": "linear_weight", "target": "labels",
                             "linear_bias": "linear_bias", "weight": "weight",
                             "sample_weight": "sample_weight"},
    "binary_cross_entropy": {"probs": "probs", "target": "soft", "weight": "weight"},
    "binary_cross_entropy_with_logits": {"logits": "logits", "target": "soft", "weight": "weight",
                                         "pos_weight": "pos_weight"},
}  # fmt: skip
each_call = pytest.mark.parametrize("name", CALLS)
INPUTS = ("logits", "probs", "x", "linear_weight", "linear_bias")


def made(name, kind=torch.float32):
    """A function, and its arguments."""
    tensors = arguments(kind)
    return getattr(fx, name.partition(" ")[0]), {p: tensors[k] for p, k in CALLS[name].items()}


def everything(function):
    """All flags that ask for more."""
    wanted = ("grad", "probs", "lse", "hess", "argmax")
    taken = fx.__dict__[function.__name__].__wrapped__.__kwdefaults__
    return {f"return_{name}": True for name in wanted if f"return_{name}" in taken}


def parts(result):
    """The tensors of a result."""
    if isinstance(result, tuple):
        return [tensor for part in result for tensor in parts(part)]
    return [] if result is None else [result]


def resize(tensor):
    """What needs a storage that is the tensor's own, and may grow."""
    tensor = tensor.detach()
    tensor.resize_(50)
    tensor.untyped_storage().resize_(0)
    tensor.untyped_storage().resize_(1000)


# --- left as they were ----------------------------------------------------------------------


@each_call
@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_arguments_and_results_can_be_resized(name, kind, reduction):
    """After a call, whatever was asked for; also what autograd has made of it."""
    function, given = made(name, kind)
    flags = everything(function)
    if flags and "normalizer" not in given or reduction == "mean":
        flags |= {"reduction": reduction} if flags else {}
        results = parts(function(**given, **flags))
        for tensor in [*given.values(), *results]:
            resize(tensor)
    if not kind.is_floating_point or reduction == "none" and "normalizer" in CALLS[name]:
        return
    function, given = made(name, kind)
    leaves = [t.requires_grad_() for p, t in given.items() if p in INPUTS]
    result = function(**given, **({"reduction": reduction} if flags else {}))
    result.sum().backward()
    for tensor in [*given.values(), result, *(leaf.grad for leaf in leaves)]:
        resize(tensor)


@each_call
def test_results_are_ordinary_tensors(name):
    """In C order, with a storage of their own that holds them and no more."""
    function, given = made(name)
    for tensor in parts(function(**given, **everything(function))):
        assert type(tensor) is torch.Tensor
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert not tensor.requires_grad


def test_large_results_are_mapped_in_huge_pages():
    """As NumPy's are, where a program may ask for them: else they take twice as long to write."""
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[madvise]" not in enabled.read_text():
        pytest.skip("the system maps all memory alike")
    # Memory of its own: PyTorch's allocator may give some of an earlier result's, which was asked.
    private = mmap.mmap(-1, 8_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    x = torch.frombuffer(private, dtype=torch.float32).reshape(2000, 1000)
    grad = fx.cross_entropy(x, torch.zeros(2000, dtype=torch.int64), return_grad=True)[1]
    for tensor, asked in ((x, False), (grad, True), (fx.softmax(x), True)):
        middle = tensor.data_ptr() + tensor.nbytes // 2
        huge = []  # of the mapping that the tensor lies in
        for entry in re.split(r"\n(?=[0-9a-f]+-)", Path("/proc/self/smaps").read_text()):
            first, last = (int(end, 16) for end in entry.split(" ", 1)[0].split("-"))
            if first <= middle < last:
                huge.append(" hg " in entry.rpartition("VmFlags:")[2].replace("\n", " "))
        assert huge == [asked]


def test_buffers_can_be_resized():
    """So that out= may grow, as PyTorch's own functions let it."""
    x, out = torch.randn(4, 3), torch.empty(4, 3)
    assert fx.softmax(x, out=out) is out
    resize(out)
    buffers = fx.LinearGrad(torch.empty(4, 5), torch.empty(3, 5), None)
    _, given = made("linear_cross_entropy")
    del given["linear_bias"]
    fx.linear_cross_entropy(**given, grad_out=buffers)
    for buffer in buffers[:2]:
        resize(buffer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own imports
def test_compiled_calls_leave_them_too():
    """An operator reads its arguments in the same way."""
    for name in CALLS:
        function, given = made(name)
        torch._dynamo.reset()
        result = torch.compile(function, backend="eager")(**given)
        for tensor in [*given.values(), *parts(result)]:
            resize(tensor)


def test_views_are_read_where_they_lie():
    """Strided, transposed, expanded, negated, of an offset, read-only: the numbers of a copy."""
    whole = torch.randn(6, 8, dtype=torch.float64)
    base = whole.clone()
    views = [
        whole[1:5, 2:5], whole.T[2:6, ::2], whole.flip(0), whole[:, ::3],
        whole[:1].expand(4, 8), torch._neg_view(whole), torch._neg_view(whole.T), whole[2:2],
        whole.diagonal().unsqueeze(0), whole.bfloat16()[1:, 1:], whole.half().T,
    ]  # fmt: skip
    for view in views:
        torch.testing.assert_close(fx.softmax(view), fx.softmax(view.clone()), rtol=0, atol=0)
    assert torch.equal(whole, base)
    frozen = np.frombuffer(whole.numpy().copy().tobytes()).reshape(6, 8)
    with pytest.warns(UserWarning, match="not writable"):
        tensor = torch.from_numpy(frozen)
    torch.testing.assert_close(fx.softmax(tensor), fx.softmax(whole), rtol=0, atol=0)


@pytest.mark.parametrize("first", [np.zeros((4, 3)), np.zeros((4, 3), np.float32)])
def test_tensors_beside_numpy_arrays(first):
    """As target and weights of a NumPy call they are left as they were, and checked, too."""
    given = arguments()
    loss = fx.cross_entropy(
        first, given["labels"], weight=given["weight"], sample_weight=given["sample_weight"]
    )
    assert isinstance(loss, first.dtype.type)
    for name in ("labels", "weight", "sample_weight"):
        resize(given[name])
    with pytest.raises(ValueError, match="^target must have its data in memory"):
        fx.cross_entropy(first, freed(arguments()["labels"]))
    with pytest.raises(TypeError, match="^target must be a tensor with data, as"):
        fx.cross_entropy(first, arguments()["labels"].to("meta"))


def test_tensors_in_lists():
    """They are left as they were and checked as any other."""
    x, label = np.zeros((4, 3)), torch.tensor(1)
    assert fx.cross_entropy(x, [label] * 4) == fx.cross_entropy(x, [1] * 4)
    assert fx.softmax([[label, label], [label, label]]).tolist() == [[0.5, 0.5]] * 2
    resize(label)
    with pytest.raises(ValueError, match="^target must have its data in memory"):
        fx.cross_entropy(x, [freed(torch.tensor(1))] * 4)


def test_subclasses_do_not_make_results():
    """Nor does what they change of new tensors: a result's memory is an ordinary tensor's."""

    class Half(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            made = super().__torch_function__(function, types, args, kwargs or {})
            return made.half() if function is torch.empty_like else made

    x = torch.randn(40, 30)
    for view in (x, x.T, x.double()):
        found = fx.softmax(view.as_subclass(Half))
        assert type(found) is torch.Tensor
        torch.testing.assert_close(found, fx.softmax(view), rtol=0, atol=0)


def test_bfloat16_beside_other_types():
    """Of another library, before any tensor of it was seen."""
    script = """
        import ml_dtypes, numpy as np, torch, fastxent as fx
        w = np.ones((3, 5), ml_dtypes.bfloat16)
        y = torch.tensor([1, 0, 2, 2])
        grad = fx.linear_cross_entropy(torch.ones(4, 5), w, y, return_grad=True)[1]
        print(grad.x.dtype, grad.linear_weight.dtype)
    """
    pytest.importorskip("ml_dtypes")
    assert python(script) == "torch.float32 torch.bfloat16\n"


def test_where_the_default_device_is_another():
    """Results are where the input is."""
    x, y = torch.randn(4, 3), torch.tensor([1, 0, 2, 2])
    with torch.device("meta"):
        loss, grad, lse = fx.cross_entropy(x, y, return_grad=True, return_lse=True)
    assert {loss.device.type, grad.device.type, lse.device.type} == {"cpu"}


# --- storage that is not there --------------------------------------------------------------


def behind(tensor):
    """A view of what was the second half of a storage."""
    whole = torch.cat([tensor.detach().flatten()] * 2)
    half = whole[tensor.numel() :].view(tensor.shape)
    whole.untyped_storage().resize_(tensor.nbytes)
    return half


def strided(tensor):
    """Every other element of a storage that lacks the last."""
    wide = torch.repeat_interleave(tensor.detach().flatten(), 2)
    view = wide[::2].view(tensor.shape)
    wide.untyped_storage().resize_(wide.nbytes - 2 * wide.itemsize)
    return view


each_loss_of_memory = pytest.mark.parametrize("lose", [freed, shrunk, behind, strided])


@each_call
@each_loss_of_memory
def test_storage_that_is_not_there(name, lose):
    """An error for each argument by its name, forward and backward, in a graph and compiled."""
    for parameter in CALLS[name]:
        if parameter == "normalizer" and lose is strided:
            continue  # of one number
        for connected in (False, True):
            function, given = made(name)
            if connected and parameter in INPUTS:
                given[parameter] = lose(given[parameter]).requires_grad_()
            else:
                given[parameter] = lose(given[parameter])
                if connected:
                    given[next(iter(given))].requires_grad_()
            with pytest.raises(ValueError, match=f"^{parameter} must have its data in memory"):
                function(**given)


@each_loss_of_memory
def test_buffers_that_are_not_there(lose):
    """Nothing is written, and the error says which one."""
    y, x = torch.tensor([1, 0, 2, 2]), torch.randn(4, 3)
    match = "must have its data in memory"
    with pytest.raises(ValueError, match=f"^out {match}"):
        fx.softmax(x, out=lose(torch.empty(4, 3)))
    for name in ("grad_out", "probs_out"):
        with pytest.raises(ValueError, match=f"^{name} {match}"):
            fx.cross_entropy(x, y, **{name: lose(torch.empty(4, 3))})
    shapes = {"x": (4, 5), "linear_weight": (3, 5), "linear_bias": (3,)}
    for name in shapes:
        buffers = fx.LinearGrad(*map(torch.empty, shapes.values()))
        buffers = buffers._replace(**{name: lose(torch.empty(shapes[name]))})
        with pytest.raises(ValueError, match=f"^grad_out.{name} {match}"):
            fx.linear_cross_entropy(
                torch.randn(4, 5), torch.randn(3, 5), y, linear_bias=torch.randn(3),
                grad_out=buffers,
            )  # fmt: skip


def test_storage_that_ends_with_the_tensor_is_enough():
    """To the byte, and of nothing at all."""
    x = torch.randn(4, 3)
    want = fx.softmax(x)
    view = torch.randn(40)[28:].view(4, 3).copy_(x)
    torch.testing.assert_close(fx.softmax(view), want, rtol=0, atol=0)
    x.untyped_storage().resize_(48)
    torch.testing.assert_close(fx.softmax(x), want, rtol=0, atol=0)
    for shape in ((0, 3), (3, 0), (0,)):
        empty = freed(torch.empty(shape))
        assert fx.softmax(empty).shape == shape


@pytest.mark.parametrize("shape, axis", [((5, 0, 0), -1), ((0,), 0), ((2, 0, 3), 1), ((0, 3), 1)])
def test_over_an_empty_axis(shape, axis):
    """softmax and log_softmax are empty, logsumexp is -inf; PyTorch's own, gradients too."""
    x = torch.zeros(shape, requires_grad=True)
    for name in ("softmax", "log_softmax"):
        out = getattr(fx, name)(x, axis=axis)
        torch.testing.assert_close(out, getattr(torch, name)(x, axis))
        out.sum().backward()
        assert x.grad.shape == shape
    torch.testing.assert_close(fx.logsumexp(x, axis=axis), torch.logsumexp(x, axis))


# --- threads --------------------------------------------------------------------------------


@pytest.fixture
def used(monkeypatch):
    """How many threads each call takes that is worth sharing."""
    threads = importlib.import_module("fastxent.cpu.threads")
    monkeypatch.setattr(threads, "_explicit", None)
    monkeypatch.setattr(threads, "_cached_default", (0, 0, "", False))
    monkeypatch.setattr(threads, "CPUS", 1 << 20)
    monkeypatch.setattr(threads, "limits", lambda: iter([threads.Limit(4, "CPU affinity")]))
    seen, run = [], threads.run

    def watched(work, chunks, n):
        seen.append(n)
        run(work, chunks, min(n, 2))

    monkeypatch.setattr(threads, "run", watched)
    before = torch.get_num_threads()
    yield seen
    torch.set_num_threads(before)


def test_no_more_threads_than_pytorch_has(used):
    """The smaller of both numbers, in every kind of call, unless ours was chosen."""
    x, y = torch.randn(2000, 300), torch.arange(2000) % 300
    threads = importlib.import_module("fastxent.cpu.threads")

    def taken(function):
        used.clear()
        function()
        return set(used)

    for torchs, want in ((1, 1), (3, 3), (4, 4), (9, 4)):
        torch.set_num_threads(torchs)
        assert taken(lambda: fx.cross_entropy(x, y)) == {want}
        assert taken(lambda: fx.softmax(x)) == {want}
        leaf = x.clone().requires_grad_()
        assert taken(lambda leaf=leaf: fx.cross_entropy(leaf, y).backward()) == {want}
        assert taken(lambda: torch.compile(fx.softmax, backend="eager")(x)) == {want}
        assert taken(lambda: fx.cross_entropy(x.numpy(), y.numpy())) == {4}
        assert fx.get_num_threads() == 4
        with fx.num_threads(2):
            assert taken(lambda: fx.cross_entropy(x, y)) == {2}
        fx.set_num_threads(3)
        assert taken(lambda: fx.cross_entropy(x, y)) == {3}
        threads._explicit = None
    own = [threads.Limit(2, "FASTXENT_NUM_THREADS"), threads.Limit(4, "CPU affinity")]
    threads._cached_default = 0, 0, "", False
    threads.limits = lambda: iter(own)  # put back by the fixture, which has replaced it
    torch.set_num_threads(1)
    assert taken(lambda: fx.cross_entropy(x, y)) == {2}


def test_a_worker_of_a_data_loader_has_one_thread():
    """As PyTorch gives it one; in a process of its own, for it forks."""
    script = """
        import torch, fastxent as fx
        from fastxent.cpu import threads

        class Rows:
            def __len__(self):
                return 1

            def __getitem__(self, k):
                seen, run = [], threads.run
                threads.run = lambda work, chunks, n: (seen.append(n), run(work, chunks, n))
                fx.softmax(torch.zeros(2000, 300))
                return max(seen)

        (numbers,) = torch.utils.data.DataLoader(Rows(), batch_size=1, num_workers=1)
        print(numbers.tolist())
    """
    assert python(script, OMP_NUM_THREADS="2", FASTXENT_NUM_THREADS=None) == "[1]\n"


# --- modules and hooks ----------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_activations_that_are_offloaded(reduction):
    """What is saved goes away and comes back, by hooks; logits may be freed after the forward."""
    y = torch.tensor([1, 0, 2, 2])
    grads = []
    for kind in (modules.CrossEntropyLoss, torch.nn.CrossEntropyLoss):
        x = torch.arange(12.0).view(4, 3).sin().requires_grad_()
        place = []

        def pack(tensor, place=place):
            place.append(tensor.detach().clone())
            return len(place) - 1

        with torch.autograd.graph.saved_tensors_hooks(pack, place.__getitem__):
            logits = x * 2
            loss = kind(reduction=reduction)(logits, y)
        if kind is modules.CrossEntropyLoss:
            logits.untyped_storage().resize_(0)
        loss.sum().backward()
        grads.append(x.grad)
        assert place
    torch.testing.assert_close(*grads)
    with torch.autograd.graph.save_on_cpu():
        x = torch.ones(4, 3, requires_grad=True)
        modules.CrossEntropyLoss()(x, y).backward()
    torch.testing.assert_close(x.grad, fx.cross_entropy(x.detach(), y, return_grad=True)[1])


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("needed", list(itertools.product((False, True), repeat=3))[1:])
def test_no_gradient_that_nobody_needs(needed, reduction):
    """Neither computed nor allocated: of a linear map, the parts that require grad."""
    _, given = made("linear_cross_entropy", torch.float64)
    names = ("x", "linear_weight", "linear_bias")
    for name, need in zip(names, needed, strict=True):
        given[name].requires_grad_(need)
    asked = []
    body = importlib.import_module("fastxent.cpu.backend").linear_cross_entropy

    def watched(call):
        asked.append(call.linear.grads)
        return body(call)

    backend = importlib.import_module("fastxent.cpu.backend")
    backend.linear_cross_entropy = watched
    try:
        fx.linear_cross_entropy(**given, reduction=reduction).sum().backward()
    finally:
        backend.linear_cross_entropy = body
    made_parts = [tuple(a is not None for a in grads) for grads in asked if grads is not None]
    assert made_parts == [needed]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the resident size")
def test_forward_and_backward_hold_no_copy():
    """Beyond the gradient 4 MB, also of logits of half precision, 262 MB, and with axis=1."""
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import torch, fastxent as fx
        from resident import LIMIT, THREADS, beyond
        fx.set_num_threads(THREADS)
        for shape, kind, axis in [
            ((4096, 32000), torch.bfloat16, -1), ((4096, 32000), torch.float16, -1),
            ((4, 150, 256, 256), torch.float32, 1),
        ]:
            x = torch.full(shape, 0.5, dtype=kind, requires_grad=True)
            labels = torch.zeros(x.movedim(axis, -1).shape[:-1], dtype=torch.int64)

            def call():
                loss = fx.cross_entropy(x, labels, axis=axis)
                return torch.autograd.grad(loss, x)

            print(beyond(call), LIMIT)
    """
    for line in python(script).splitlines():
        size, limit = map(int, line.split())
        assert size < limit

"""The text of docs/benchmarks.md around its tables."""

INTRODUCTION = """\
# Benchmarks

Use this page to see how long fastxent takes beside other implementations of cross-entropy, for
which shapes and types it pays, and [where it is slower](#where-fastxent-is-slower). To measure your
own shapes, run `python -m fastxent bench` ([command line](command-line.md));
[Reproduce](#reproduce) repeats everything on this page.

Other measurements: [accuracy](accuracy.md); objectives of XGBoost and LightGBM, Dask, and
scikit-learn's `LogisticRegression` in [integrations](integrations.md); what is prepared for
[GPUs](gpu.md). `bench/page.py` writes this page from the records in `bench/results`.
"""

METHOD = """\
Each implementation runs in a process of its own with {threads} threads; NumPy's own loops use one.
Its answer is compared with `fastxent.reference` in float64 before it is timed. Then all of them
take turns: in each round, each calls its function in a loop of 0.1 s (0.05 s in the sweeps and for
small calls), and the median call is the time of the round. A ratio is computed within a round; the
tables show the median over the rounds.

- **NumPy idiom** is the [usual formula](one-pass.md#as-it-is-usually-written); **NumPy, tuned** has
  preallocated buffers and as few passes as NumPy allows; **Numba, plain loops** is a parallel loop
  over rows with `math.exp`. SciPy and scikit-learn are called as in [accuracy](accuracy.md).
- **× fastxent** is the time of another implementation divided by that of fastxent. **Bold** marks
  ratios below 1: there fastxent is slower.
- **fastxent** allocates a new gradient, as the others do; **grad_out** writes into an existing one.
- **copy** is `numpy.copyto` of the logits into an existing buffer, divided among the threads. It
  moves `2·N·C·itemsize` bytes, which a loss with gradient cannot avoid, and computes nothing.
- **GB/s** is the number of these bytes divided by the time; **of the copy** is the speed as a share
  of the copy's. It is not given below 1 MB: there most of the copy's time is the start of its
  second thread ([One thread and two](#one-thread-and-two)). **–** means not measured or not given.

The logits are normal with a standard deviation of 3, the labels random.

A number is the median of several runs, followed by their range. Each section shows the last set of
runs that measured it: of one version, one day and one CPU ([Machines](#machines)).
Where runs differ by more than a factor of 1.5, tables without ranges give the lowest ratio, and
charts the longest time of fastxent and the shortest of the others.
"""

IN_SHORT = """\
Time of other implementations as a multiple of fastxent's, in the layout and types of the line.
"""

LOWEST = "Where a ratio varies by more than 1.5 × between runs, the tables give the lowest.\n"

SLOWER = """\
Every case of this page in which another implementation takes less time. The ratio is its time
divided by that of fastxent. Where a section also measures fastxent's function for PyTorch or JAX,
the ratio is to that function, not to the call on NumPy arrays; so it can be lower than in the
section's table.

"""

LOGITS = """\
Speed on other logits than normal ones: "wide" are uniform between −80 and 80, "confident" have one
logit that is larger than all others by 10 to 30.

"""

TABLE = """\
The chart shows the float32 shapes, each with a scale of its own. After it, one table for each shape
has all implementations. "Extra MB" is the memory that the process uses at the peak of a call beyond
its answer.

"""

FEATURES = """\
Two panels of the chart have a function in the title; the others show loss and gradient. The tables
are in the sections below.

"""

TARGETS = """\
Speed per byte moved. Class probabilities as target add half as many bytes as logits and gradient.

"""

PROGRAMS = """\
"fastxent" is the time of fastxent's own function inside a program of PyTorch or JAX, "its own" that
of the library's loss in the same place. "Gradient kept" is a forward pass that saves the gradient
for `backward`. torch.nn is compared with fastxent's module of the same
name, torch.nn.functional with `fastxent.integrations.torch.functional`.

"""

OPTIONS = """\
Loss and gradient. "fastxent" is the time of the call, and "× plain" that time divided by the time
of the call without options, measured alternately. The other columns are ratios of times: of another
implementation to fastxent on NumPy arrays, and of torch.nn to fastxent's module in its place. The
binary losses have 320 elements, `categorical_cross_entropy` takes probabilities of the same shape.
Weights are random arrays. PyTorch refuses int32 labels. The labels of JAX are int32 in every line.

"""

STARTUP = """\
Each line is a fresh process, whose imports count. With an empty cache, as after an installation,
kernels are compiled. A first call in JAX is that of a jitted loss with its gradient. A warm-up is
timed once in each run, the others in three rounds.

"""

LAYOUTS = """\
Segmentation has its classes on axis 1, before the pixels; some libraries return column-major
arrays. "fastxent's functional" is `fastxent.integrations.torch.functional` on PyTorch's tensors.
"rows" is fastxent on the same numbers with the classes last and contiguous; moving them there is
not timed. A new gradient is C-contiguous, "grad_out" has the layout of the logits. JAX copies a
column-major array into rows once, when it takes the array, which is not timed either.

"""

HALF = """\
The first two tables are forward and backward on PyTorch's tensors (JAX: its arrays), the third is
on NumPy arrays. fastxent computes in float32 and rounds the results. The gradient of a float16
tensor is computed in `backward`, where a loss scale is applied before it is rounded. The NumPy
idiom computes in float32, too, with a conversion before and after: in float16, p below 6e-8 is 0,
and the loss infinite.

"""

CATEGORICAL = """\
PyTorch and scikit-learn's `log_loss` compute the logarithm of all probabilities, the others only
that of the labels' probabilities. `log_loss` also checks the sums of the rows.

"""

SECOND = """\
A Hessian-vector product is taken with a random vector and includes the forward pass: in PyTorch by
`torch.autograd.functional.hvp`, in JAX by `jax.jvp` of `jax.grad` under `jit`. The share of a copy
counts reading logits and vector and writing the product. Per-sample gradients are `torch.func.vmap`
of `torch.func.grad`, beside the losses and gradients of all rows in one call. The last two tables
are cross_entropy with the entropy and without it: loss and gradient, and the loss alone.

"""

LABELS = """\
fastxent on int64 labels, and on the same labels in smaller types.

"""

REPRODUCE = """\
```sh
pip install -e '.[bench,peers]'
python bench/run.py --output bench/results/<name>.json       # on an idle machine, about 13 minutes
python bench/plot.py bench/results/*.json
python bench/page.py bench/results/*.json
```

Run the second command three times, with a new name each, to get ranges. `--groups startup warmup`
also times the compilation of all kernels. `pytest bench` compares the implementations that are
installed, and stores and compares times of fastxent.
"""

"""The table of benchmark cases: job, shape, type, layout, logits, peers, rounds."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Job = Literal[
    "cross_entropy", "forward", "loss", "softmax", "log_softmax", "categorical", "binary",
    "binary_probs", "linear", "frozen", "hvp", "entropy", "per_sample",
]  # fmt: skip
Logits = Literal["random", "wide", "confident"]
Target = Literal["index", "soft", "one-hot"]
Layout = Literal["rows", "channels-first", "column-major"]

# How many arrays of the logits' size a job has to read or write. The linear loss has none, and the
# loss of probabilities with class indices reads one number per row.
_ARRAYS: dict[Job, int] = {
    "cross_entropy": 2, "forward": 2, "loss": 1, "softmax": 2, "log_softmax": 2,
    "categorical": 0, "binary": 3, "binary_probs": 3, "linear": 0, "frozen": 0, "hvp": 3,
    "entropy": 2, "per_sample": 2,
}  # fmt: skip
ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class Case:
    """A computation on N rows of C classes.

    `job` is the name of the peer's function, `logits` their distribution (see `inputs`),
    `features` the K of x (N, K) if the logits are x @ weight.T, and `threads` the number of
    threads, None for that of the run. `image` is the height and width of the images for the layout
    of segmentation, (n, C, h, w), whose pixels are the rows. With `label_dtype` "list" the labels
    are a list of Python ints. `options` are the names of fastxent's options that are passed,
    separated by spaces; their values are in `inputs`.
    """

    rows: int
    classes: int
    dtype: str = "float32"
    job: Job = "cross_entropy"
    logits: Logits = "random"
    target: Target = "index"
    features: int = 0
    threads: int | None = None
    layout: Layout = "rows"
    image: int = 0
    label_dtype: str = "int64"
    options: str = ""

    def __str__(self) -> str:
        shape = f"{self.rows}x{self.classes}"
        parts = [self.job, shape, self.dtype, self.logits, self.target]
        if self.layout != "rows":
            parts.append(self.layout)
        if self.label_dtype != "int64":
            parts.append(self.label_dtype)
        parts += self.options.split()
        return "-".join(parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the logits."""
        if self.layout == "channels-first":
            return self.rows // self.image**2, self.classes, self.image, self.image
        if self.classes_first:
            return self.classes, self.rows
        if self.job in ("binary", "binary_probs"):
            return (self.rows,)
        return self.rows, self.classes

    @property
    def classes_first(self) -> bool:
        """Whether the logits are (C, N)."""
        return "axis" in self.options.split()

    @property
    def size(self) -> int:
        """Number of logits."""
        return self.rows * self.classes

    @property
    def floor_bytes(self) -> int:
        """The least number of bytes to read and write, without O(N) terms."""
        arrays = _ARRAYS[self.job] + (self.target != "index")
        return arrays * self.size * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Entry:
    """A peer and a case: one side of a heat."""

    peer: str
    case: Case


Heat = tuple[Entry, ...]


@dataclass(frozen=True)
class Group:
    """Heats for one comparison; the sides of a heat take turns, `rounds` times `seconds` each."""

    title: str
    heats: tuple[Heat, ...]
    rounds: int = 7
    seconds: float = 0.1


def sides(case: Case, peers: Iterable[str]) -> Heat:
    """All peers on one case."""
    return tuple(Entry(peer, case) for peer in peers)


def heats(cases: Iterable[Case], peers: Iterable[str]) -> tuple[Heat, ...]:
    """A heat of all peers for each case."""
    names = tuple(peers)
    return tuple(sides(case, names) for case in cases)


SHAPES = [(32, 10), (65536, 10), (16384, 100), (8192, 1000), (1024, 32000), (256, 128256)]
MIDDLE = SHAPES[1:4]
SECOND = [(8192, 1000), (65536, 10)]
PROGRAM_SHAPES = [(32, 10), (8192, 1000), (1024, 32000)]
EVERYBODY = (
    "copy", "fastxent", "fastxent_out", "numpy_idiom", "numpy_tuned", "scipy", "sklearn", "torch",
    "torch_compile", "jax", "numba",
)  # fmt: skip
FAST = ("copy", "fastxent", "fastxent_out", "torch_compile", "jax")

SEGMENTED = Case(4 * 256 * 256, 21, layout="channels-first", image=256)
COLUMNS = Case(8192, 1000, layout="column-major")
TOKENS = Case(2048, 32000)  # of a language model, whose tensors are often of half precision
HALF = Case(4096, 1000, "float16")
LABELLED = Case(65536, 10)
PLAIN = Case(32, 10)  # a small call, compared with calls with options
IN_TORCH = ("torch", "torch_module", "fastxent_torch")
IN_PROGRAMS = ("fastxent_torch", "torch_module", "fastxent_functional", "torch")

_SWEPT_SIZE = 4_000_000
_SWEPT_CLASSES = [2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 32000, 128256]
_SWEPT_ROWS = [1, 4, 16, 64, 256, 1024, 4096, 16384]


def beside_plain(case: Case, *peers: str) -> Heat:
    """A heat of fastxent and other peers on a case, and fastxent's plain call."""
    plain = sides(PLAIN, ["fastxent"]) if case != PLAIN else ()
    return sides(case, ["fastxent", *peers]) + plain


GROUPS = {
    "table": Group(
        "Loss and gradient",
        heats([Case(*shape, dtype) for dtype in ("float32", "float64") for shape in SHAPES],
              EVERYBODY),
        rounds=5,
    ),
    "loss": Group(
        "Loss alone",
        heats([Case(8192, 1000, job="loss")],
              ["copy", "fastxent", "numpy_idiom", "scipy", "torch", "torch_compile", "jax"]),
    ),
    "classes": Group(
        "Number of classes, four million logits",
        heats([Case(max(_SWEPT_SIZE // c, 1), c) for c in _SWEPT_CLASSES], FAST),
        rounds=5, seconds=0.05,
    ),
    "rows": Group(
        "Number of rows",
        heats([Case(n, c) for c in (10, 1000) for n in _SWEPT_ROWS],
              ["copy", "fastxent", "fastxent_out", "numpy_tuned", "jax"]),
        rounds=5, seconds=0.05,
    ),
    "threads": Group(
        "One thread and two",
        tuple(
            tuple(Entry(peer, Case(*shape, threads=n))
                  for n in (1, 2) for peer in ("copy", "fastxent_out"))
            for shape in SHAPES
        ),
        rounds=5,
    ),
    "logits": Group(
        "Distribution of the logits",
        tuple(
            tuple(Entry("fastxent_out", Case(*shape, logits=model))
                  for model in ("random", "wide", "confident"))
            for shape in MIDDLE
        ),
    ),
    "targets": Group(
        "Class probabilities as target",
        tuple(
            tuple(Entry("fastxent_out", Case(*shape, target=kind))
                  for kind in ("index", "soft", "one-hot"))
            for shape in SHAPES[1:5]
        ),
    ),
    "softmax": Group(
        "softmax and log_softmax",
        heats([Case(8192, 1000, job="softmax"), Case(8192, 1000, job="log_softmax")],
              ["copy", "fastxent", "fastxent_out", "scipy", "torch"]),
    ),
    "binary": Group(
        "Binary cross-entropy of ten million logits",
        heats([Case(10_000_000, 1, job="binary")],
              ["copy", "fastxent", "fastxent_out", "numpy_idiom", "numpy_tuned", "torch"]),
        rounds=5,
    ),
    "linear": Group(
        "linear_cross_entropy",
        heats([Case(4096, 32000, job="linear", features=256)],
              ["fastxent", "numpy_idiom", "torch", "torch_chunked"]),
        rounds=3,
    ),
    "frozen": Group(
        "A linear head whose weights are frozen, in PyTorch",
        heats([Case(4, 100_000, job="frozen", features=160),
               Case(2048, 32_000, job="frozen", features=256)],
              ["fastxent_torch", "torch", "torch_chunked"]),
        rounds=5, seconds=0.3,
    ),
    "programs": Group(
        "Inside programs of PyTorch and JAX",
        heats([Case(32, 10, job="forward")], ["fastxent", *IN_PROGRAMS])
        + heats([Case(*shape) for shape in PROGRAM_SHAPES],
                ["fastxent", *IN_PROGRAMS, "fastxent_jax", "jax"])
        + heats([Case(*shape, job="loss") for shape in PROGRAM_SHAPES], ["fastxent_jax", "jax"]),
    ),
    "options": Group(
        "Small calls with options",
        tuple(
            beside_plain(replace(PLAIN, options=options), "numpy_idiom", "jax", *IN_TORCH)
            for options in ("", "reduction", "weight", "label_smoothing", "label_smoothing weight")
        )
        + tuple(
            beside_plain(replace(PLAIN, options=options), "numpy_idiom", "torch", "jax")
            for options in ("sample_weight", "z_loss", "return_probs return_lse", "axis")
        )
        + (
            beside_plain(replace(PLAIN, target="soft"), "numpy_idiom", "torch", "jax"),
            # PyTorch refuses int32 labels; JAX always gets int32.
            beside_plain(replace(PLAIN, label_dtype="int32"), "numpy_idiom", "jax"),
            beside_plain(replace(PLAIN, label_dtype="list"), "numpy_idiom"),
            beside_plain(replace(PLAIN, dtype="float16"), "numpy_idiom", "torch", "jax"),
        )
        + tuple(
            beside_plain(Case(320, 1, job=job), "numpy_idiom", "torch", "jax")
            for job in ("binary", "binary_probs")
        )
        + tuple(
            beside_plain(
                replace(PLAIN, job="categorical", target=kind, options="return_grad"),
                "numpy_idiom", "torch", "jax",
            )
            for kind in ("index", "soft")
        ),
        seconds=0.05,
    ),
    "one_row": Group(
        "One row",
        heats([Case(1, 10), Case(1, 1000)],
              ["fastxent", "fastxent_out", "numpy_idiom", "scipy", "sklearn", "torch", "jax",
               "numba"])
        + heats([Case(1, 10, job="loss")], ["fastxent", "numpy_idiom", "scipy", "torch", "jax"]),
        seconds=0.05,
    ),
    "layouts": Group(
        "Class axis 1, and column-major logits",
        (sides(SEGMENTED, ["copy", "fastxent", "fastxent_out", "numpy_idiom", "torch",
                           "torch_compile", "jax"])
         + sides(replace(SEGMENTED, layout="rows", image=0), ["fastxent", "fastxent_out"]),
         sides(COLUMNS, ["copy", "fastxent", "fastxent_out", "numpy_idiom", "torch",
                         "torch_compile", "jax"])
         + sides(replace(COLUMNS, layout="rows"), ["fastxent", "fastxent_out"]))
        + heats([replace(SEGMENTED, rows=2 * 64 * 64, classes=c, image=64) for c in (5, 21)],
                ["copy", "fastxent", "fastxent_out", "fastxent_functional", "numpy_idiom", "torch",
                 "torch_compile", "jax"]),
    ),
    "half": Group(
        "Half precision",
        tuple(
            sides(replace(TOKENS, dtype=dtype),
                  ["copy", "fastxent_torch", "torch", "torch_compile", "jax"])
            + sides(TOKENS, ["fastxent_torch"])
            for dtype in ("bfloat16", "float16")
        )
        + (sides(HALF, ["copy", "fastxent", "fastxent_out", "numpy_idiom", "torch"])
           + sides(replace(HALF, dtype="float32"), ["fastxent", "fastxent_out"]),),
        rounds=5,
    ),
    "categorical": Group(
        "categorical_cross_entropy by class index, loss alone",
        heats([Case(65536, 10, job="categorical")],
              ["fastxent", "numpy_idiom", "sklearn", "torch", "torch_compile", "jax"]),
    ),
    "binary_few": Group(
        "Binary cross-entropy of few logits",
        heats([Case(n, 1, job="binary") for n in (32, 10_000)],
              ["copy", "fastxent", "fastxent_out", "numpy_idiom", "numpy_tuned", "scipy", "sklearn",
               "torch", "torch_compile", "jax"]),
    ),
    "second": Group(
        "Second derivatives, per-sample gradients, entropy",
        heats([Case(*shape, job="hvp") for shape in SECOND],
              ["copy", "fastxent", "fastxent_out", "numpy_idiom", "torch", "fastxent_torch", "jax",
               "fastxent_jax"])
        + heats([Case(*shape, job="entropy") for shape in SECOND],
                ["copy", "fastxent", "fastxent_out", "numpy_idiom", "torch", "jax"])
        + tuple(
            sides(Case(8192, c, job="per_sample"), ["fastxent_torch", "torch"])
            + sides(Case(8192, c, options="reduction"), ["fastxent_torch"])
            for c in (1000, 10)
        )
        + tuple(
            sides(replace(case, options="return_entropy"), ["fastxent"]) + sides(case, ["fastxent"])
            for case in (Case(8192, 1000), Case(8192, 1000, job="loss"))
        ),
    ),
    "labels": Group(
        "Integer types of the labels",
        (tuple(Entry("fastxent", replace(LABELLED, label_dtype=dtype))
               for dtype in ("int64", "int32", "uint8")),),
    ),
}  # fmt: skip

"""pandas, Polars and xarray: every cell of the table in docs/integrations.md."""

import functools

import numpy as np
import pytest

import fastxent as fx

LOGITS = np.random.default_rng(0).standard_normal((4, 3))
LABELS, ONE_HOT, WEIGHTS = np.array([0, 2, 1, 1]), np.eye(3)[[0, 2, 1, 1]], np.arange(1.0, 5)
NAMES = ["cat", "dog", "owl"]


def pandas():
    return pytest.importorskip("pandas", reason="pip install pandas")


def polars():
    return pytest.importorskip("polars", reason="pip install polars")


def xarray():
    return pytest.importorskip("xarray", reason="pip install xarray")


def of_pandas(a):
    pd = pandas()
    return pd.DataFrame(a, columns=NAMES[: a.shape[1]]) if a.ndim == 2 else pd.Series(a)


def nullable(a):
    kind = {"f": f"Float{8 * a.itemsize}", "i": f"Int{8 * a.itemsize}", "b": "boolean"}
    return of_pandas(a).astype(kind[a.dtype.kind])


def of_arrow(a):
    pytest.importorskip("pyarrow", reason="pip install pyarrow")
    kind = {"float32": "float", "float64": "double"}.get(a.dtype.name, a.dtype.name)
    return of_pandas(a).astype(f"{kind}[pyarrow]")


def of_polars(a):
    pl = polars()
    return pl.DataFrame(a, schema=NAMES[: a.shape[1]]) if a.ndim == 2 else pl.Series(a)


def of_xarray(a):
    return xarray().DataArray(a, dims=("sample", "class")[: a.ndim])


KINDS = {
    "pandas": of_pandas, "pandas, nullable": nullable, "pandas, Arrow": of_arrow,
    "Polars": of_polars, "xarray": of_xarray,
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@every_kind
def test_arguments(kind):
    """As logits, either target and weights: the bits of arrays, as NumPy's arrays or numbers."""
    for dtype in (np.float32, np.float64, np.int64):
        logits = LOGITS.astype(dtype)
        want, got = fx.softmax(logits), fx.softmax(kind(logits))
        assert type(got) is np.ndarray and got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    for target in (LABELS, LABELS.astype(np.int8), ONE_HOT):
        arguments = {"logits": LOGITS, "target": target, "sample_weight": WEIGHTS}
        want = fx.cross_entropy(**arguments, return_grad=True)
        for name in [*arguments, None]:
            names = [name] if name else list(arguments)
            odd = {each: kind(arguments[each]) for each in names}
            loss, grad = fx.cross_entropy(**arguments | odd, return_grad=True)
            assert type(loss) is np.float64 and type(grad) is np.ndarray
            np.testing.assert_array_equal(loss, want[0])
            np.testing.assert_array_equal(grad, want[1])
    loss = fx.cross_entropy(LOGITS, LABELS, weight=kind(WEIGHTS[:3]))
    assert loss == fx.cross_entropy(LOGITS, LABELS, weight=WEIGHTS[:3])
    binary = fx.binary_cross_entropy_with_logits(kind(LOGITS), kind(ONE_HOT))
    assert binary == fx.binary_cross_entropy_with_logits(LOGITS, ONE_HOT)


@every_kind
def test_refused(kind):
    """Buffers; labels that are floats or bools; a frame of one column as class indices."""
    with pytest.raises(ValueError, match=r"^grad_out must be a numpy.ndarray, got (DataF|DataA)"):
        fx.cross_entropy(kind(LOGITS), LABELS, grad_out=kind(np.empty((4, 3))))
    for labels in (LABELS.astype(float), LABELS == 1):
        says = f"^target must hold integer class indices, got {labels.dtype}"
        with pytest.raises(TypeError, match=says):
            fx.cross_entropy(LOGITS, kind(labels))
    with pytest.raises(ValueError, match=r"^target must have shape \(4,\) .*, got \(4, 1\)"):
        fx.cross_entropy(LOGITS, kind(LABELS[:, None]))


def test_missing_values():
    """Of nullable columns an error that names the row; nan is a number everywhere."""
    pd, pl = pandas(), polars()
    for other in (
        pd.DataFrame({"a": [1.0, np.nan]}), pd.Series([1.0, None]),
        pl.DataFrame({"a": [1.0, np.nan]}), pl.Series([1.0, np.nan]),
    ):  # fmt: skip
        assert np.isnan(fx.logsumexp(other, axis=0))
    for frame in (
        pd.DataFrame({"a": pd.array([1.0, 2.0, None]), "b": [1.0, 2.0, 3.0]}),
        pd.Series([0, 1, None], dtype="Int64"),
        pl.DataFrame({"b": [1.0, 2.0, 3.0], "a": [1.0, 2.0, None]}),
        pl.DataFrame({"b": [1, 2, None, 3], "a": [1.0, 2.0, 3.0, None]}),
        pl.Series([0, 1, None]), pl.Series([0.0, 1.0, None, None]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="^logits must have no .* got one in row 2$"):
            fx.softmax(frame, axis=0)
        with pytest.raises(ValueError, match="^target must have no .* got one in row 2$"):
            fx.cross_entropy(LOGITS[: len(frame)], frame)
        with pytest.raises(ValueError, match="^sample_weight must have no .* got one in row 2$"):
            fx.cross_entropy(LOGITS, LABELS, sample_weight=frame)


def test_types_of_columns():
    """The common type of the columns; what has no numbers is refused by its name."""
    pd, pl, xr = pandas(), polars(), xarray()
    single = np.ones(2, np.float32)
    for frame, dtype in (
        (pd.DataFrame({"a": single, "b": single}), np.float32),
        (pd.DataFrame({"a": single, "b": [1, 2]}), np.float64),
        (pl.DataFrame({"a": single, "b": single}), np.float32),
        (pl.DataFrame({"a": single, "b": [1, 2]}), np.float64),
        (pl.DataFrame({"a": [True, False], "b": single}), np.float32),
    ):
        assert fx.softmax(frame).dtype == dtype
    for value, says in (
        (pd.DataFrame({"a": [True, False], "b": [1.0, 2.0]}), "got object"),
        (pd.Series(["a", "b"]), "got "), (pl.Series(["a", "b"]), "got "),
        (pd.Series(pd.to_datetime(["2020-01-01"])), "got datetime64"),
        (pl.Series([[1.0], [2.0]]), "got object"),
        (pl.LazyFrame({"a": [1.0]}), r"got LazyFrame: call collect\(\)$"),
        (xr.Dataset({"a": ("n", [1.0])}), "got Dataset: .*DataArray"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=f"^logits must be .*{says}"):
            fx.softmax(value)


def test_categories():
    """Categories count by their values; of text, their codes do, -1 for a missing one."""
    pd, pl = pandas(), polars()
    want = fx.cross_entropy(LOGITS, LABELS)
    of_numbers = pd.Series(LABELS, dtype="category")
    assert fx.cross_entropy(LOGITS, of_numbers) == want
    assert fx.cross_entropy(LOGITS, LABELS, sample_weight=of_numbers) == (
        fx.cross_entropy(LOGITS, LABELS, sample_weight=LABELS)
    )
    assert fx.logsumexp(of_numbers) == fx.logsumexp(LABELS)
    text = np.array(NAMES)[LABELS]
    of_text = pd.Series(pd.Categorical(text, categories=NAMES))
    with pytest.raises(TypeError, match="^target must hold integer class indices, got "):
        fx.cross_entropy(LOGITS, of_text)
    assert fx.cross_entropy(LOGITS, of_text.cat.codes) == want
    of_text[1] = None
    without = fx.cross_entropy(LOGITS[[0, 2, 3]], LABELS[[0, 2, 3]])
    got = fx.cross_entropy(LOGITS, of_text.cat.codes, ignore_index=-1)
    assert got == pytest.approx(without, rel=1e-15)
    of_text = pl.Series(text, dtype=pl.Enum(NAMES))
    with pytest.raises(TypeError, match="^target must hold integer class indices, got "):
        fx.cross_entropy(LOGITS, of_text)
    for given in ({"logits": of_text}, {"sample_weight": of_text}):
        with pytest.raises(TypeError, match=f"^{next(iter(given))} must "):
            fx.cross_entropy(**{"logits": LOGITS, "target": LABELS} | given)
    assert fx.cross_entropy(LOGITS, of_text.to_physical()) == want


@pytest.mark.parametrize("dask", ["forbidden", "parallelized", "allowed"])
def test_apply_ufunc(dask):
    """Dimensions by their names, in any order; in chunks by either way that xarray offers."""
    xr = xarray()
    images = np.random.default_rng(1).standard_normal((2, 3, 4, 5))
    logits = xr.DataArray(images, dims=("image", "class", "y", "x"), coords={"class": NAMES})
    target = xr.DataArray(images.argmin(axis=1), dims=("image", "y", "x"))
    more = {}
    if dask != "forbidden":
        pytest.importorskip("dask.array", reason="pip install 'dask[array]'")
        logits, target = logits.chunk({"image": 1, "class": -1}), target.chunk({"image": 1})
        more = {"output_dtypes": [float, float]} if dask == "parallelized" else {}
    losses, grad = xr.apply_ufunc(
        functools.partial(fx.cross_entropy, reduction="none", return_grad=True), logits, target,
        input_core_dims=[["class"], []], output_core_dims=[[], ["class"]], dask=dask, **more,
    )  # fmt: skip
    if dask != "forbidden":
        assert type(losses.data).__module__.startswith("dask")
    assert losses.dims == ("image", "y", "x") and grad.dims == ("image", "y", "x", "class")
    assert grad.coords["class"].values.tolist() == NAMES
    want = fx.cross_entropy(images, target.values, axis=1, reduction="none", return_grad=True)
    np.testing.assert_allclose(losses, want[0], rtol=1e-14)
    np.testing.assert_allclose(grad.transpose(*logits.dims), want[1], rtol=1e-13, atol=1e-16)

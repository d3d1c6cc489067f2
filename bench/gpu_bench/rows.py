"""Rows of results: a failed call, a rounded number, a short label."""


def failure(error):
    """An exception as the note of a row."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:300]


def rounded(value):
    """Four significant digits, as in the rest of a record."""
    return float(f"{value:.4g}")


def label(row):
    """Group, job, shape and type of a row."""
    keys = ("group", "job", "rows", "classes", "image", "dtype")
    return " ".join(str(row[key]) for key in keys if key in row)

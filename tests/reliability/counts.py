"""Counts of tries and successes in these tests, and the table of docs/reliability.md.

python -m pytest -n auto --dist worksteal tests/reliability --page docs/reliability.md
"""

import contextlib
import inspect
import math
import re
import time
from pathlib import Path

import pytest
from reliability.page import ROWS, render, scores

BEGIN = pytest.StashKey[float]()
COUNT = "reliability"  # the name under which a test's counts travel in its report


def pytest_addoption(parser):
    parser.addoption("--page", metavar="FILE", help="try all, and write a page of the counts")


def pytest_configure(config):
    config.stash[BEGIN] = time.monotonic()


@pytest.fixture
def effort(request):
    """Choose between two numbers of tries: for a run of the tests, or for the page."""
    page = request.config.getoption("--page", None)
    return lambda short, complete: complete if page else short


@pytest.fixture
def count(record_property):
    """Add `good` of `tried` to a row of the table, and fail unless they are the same."""

    def add(row, good, tried):
        assert row in ROWS
        record_property(COUNT, (row, good, tried))
        assert good == tried, f"{row}: {good} of {tried}"

    return add


@pytest.fixture
def one_fault(count):
    """Make all tries of one fault, and count it once: good if every try was."""

    def tried(row, tries):
        wrong, n = [], 0
        for n, (what, attempt) in enumerate(tries, 1):  # noqa: B007
            try:
                attempt()
            except Exception as error:  # any error: record it and try the rest
                wrong.append(f"{what}: {type(error).__name__}: {error}")
        assert n, "nothing takes such an argument"
        with contextlib.suppress(AssertionError):
            count(row, int(not wrong), 1)
        assert not wrong, "\n".join(wrong)

    return tried


@pytest.fixture
def measure(record_property):
    """Put a measurement in a row of the table, and fail if it is above the limit."""

    def put(row, value, limit):
        assert row in ROWS
        record_property(COUNT, (row, value, limit))
        assert value < limit, f"{row}: {value}, and {limit} are allowed"

    return put


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Count a failed test as one failure in each row it counts for, if it has not counted."""
    report = yield
    if report.failed and "reliability/" in report.nodeid:
        own = {value[0] for name, value in report.user_properties if name == COUNT}
        source = inspect.getsource(item.function)
        for row in set(re.findall(r"\(\"([a-z ]+)\",", source)) & set(ROWS) - own:
            report.user_properties.append((COUNT, (row, 0, 1)))
    return report


def totals(reporter):
    """The sums by row, and the outcomes that are not a pass."""
    sums, others = {}, []
    for outcome, reports in reporter.stats.items():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == COUNT and (report.when == "call" or report.failed):
                    row, good, tried = value
                    before = sums.get(row, (0, 0))
                    sums[row] = (before[0] + good, before[1] + tried)
            if outcome in ("failed", "error", "skipped") and "reliability/" in report.nodeid:
                others.append((outcome, report))
    return sums, others


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    sums, others = totals(terminalreporter)
    if not sums or hasattr(config, "workerinput"):  # a worker of xdist has only its own part
        return
    terminalreporter.section("reliability")
    for row, score, _ in scores(sums):
        if row in sums:
            terminalreporter.write_line(f"{score:>28}  {ROWS[row].what}")
    page = config.getoption("--page", None)
    if page and (
        exitstatus > pytest.ExitCode.TESTS_FAILED or terminalreporter.stats.get("deselected")
    ):
        terminalreporter.write_line("no page is written of a part of the tests")
    elif page:
        minutes = math.ceil((time.monotonic() - config.stash[BEGIN]) / 60)
        Path(page).write_text(render(sums, others, minutes))

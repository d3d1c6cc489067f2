"""The marker `share(n)`: a run takes one of n shares of a file's tests, another each day.

It is for long tables of slow tests. With `--complete` or `--page` none is left out, nor of a file
of which a test is named (`file.py::test`).
"""

import datetime
import zlib
from collections import defaultdict


def pytest_addoption(parser):
    parser.addoption("--complete", action="store_true", help="all tests, not today's share of some")


def pytest_configure(config):
    config.addinivalue_line("markers", "share(n): one n-th of these tests a run, by the date")


def pytest_collection_modifyitems(config, items):
    """Deselect the shares of other days."""
    if config.getoption("--complete") or config.getoption("--page"):
        return
    here = config.invocation_params.dir
    named = {(here / arg.partition("::")[0]).resolve() for arg in config.args if "::" in arg}
    tables = defaultdict(list)
    for item in items:
        marker = item.get_closest_marker("share")
        if marker and item.path.resolve() not in named:
            (shares,) = marker.args
            tables[item.path, shares].append(item)
    day = datetime.date.today().toordinal()
    left_out = set()
    for (path, shares), table in tables.items():
        first = (day + zlib.crc32(path.name.encode())) % shares  # files take turns
        left_out |= set(table) - set(table[first::shares])
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=list(left_out))

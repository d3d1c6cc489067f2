"""A plugin of pytest that writes the result of each test immediately, as a line of JSON.

`python -m pytest -p gpu_bench.pytest_results --results-file FILE`, with `bench` in PYTHONPATH. A
run that is killed leaves the failures that it had, and the tests that were running.
"""

import json


def pytest_addoption(parser):
    """Add --results-file."""
    parser.addoption("--results-file", help="a line for each beginning and each end of a test")


def pytest_configure(config):
    """Write in the process that the results of all workers come to."""
    path = config.getoption("results_file")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer(path))


class _Writer:
    def __init__(self, path):
        self.path = path

    def _write(self, **fields):
        with open(self.path, "a") as file:
            file.write(json.dumps(fields) + "\n")

    def pytest_runtest_logstart(self, nodeid):
        self._write(test=nodeid, outcome="running")

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            text = {"text": report.longreprtext} if report.failed else {}
            seconds = round(report.duration, 3)
            self._write(test=report.nodeid, outcome=report.outcome, seconds=seconds, **text)

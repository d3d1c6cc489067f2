"""Processes that make first calls at once on an empty cache: `cache_races.py ROUNDS`."""

import os
import shutil
import sys

from cache_users import CALLS, child, end, fine, main, start


def races(rounds, place):
    """Two kernels, one of them twice, by three processes at once on a folder that is not there."""
    counts = {"processes": 0, "right": 0, "files": 0, "whole": 0}
    for k in range(rounds):
        folder = place / str(k)
        begin = os.pipe()
        children = [start(folder, [call], begin=begin) for call in [*CALLS, CALLS[k % 2]]]
        os.close(begin[1])  # all of them go
        answers = [end(*started) for started in children]
        os.close(begin[0])
        files = list(folder.iterdir())
        after = child(folder, CALLS)  # finds all that it needs
        counts["processes"] += len(answers)
        counts["right"] += sum(map(fine, answers))
        counts["files"] += len(CALLS)
        if fine(after) and after["compiled"] == 0 and len(files) == len(CALLS):
            counts["whole"] += len(CALLS)
        shutil.rmtree(folder)
    return counts


if __name__ == "__main__":
    main(races, sys.argv[1])

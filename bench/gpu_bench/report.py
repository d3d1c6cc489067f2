"""A run as text."""

from gpu_bench.rows import label


def table(run):
    """A run as lines of text: races, plans ranked, Python's cost, failures, what is missing."""
    results = run["results"]
    for row in results:
        if row["group"] == "ceiling" and "gb_per_s" in row:
            yield f"copy of {row['bytes'] / 1e9:.1f} GB: {row['gb_per_s']:.0f} GB/s"
    shape = f"{'rows':>9}{'classes':>9}"
    yield f"\n{'side':<34}{shape} {'type':<9}{'ms':>9}{'GB/s':>7}{'copy':>6}  peers' time / ours"
    for row in results:
        if row["group"] == "race" and row["peer"].startswith("fastxent") and "median" in row:
            ratios = (f"{p} {r:.2f}" for p, r in row["ratios"].items() if p != "copy")
            yield (
                f"{row['peer'] + ', ' + row['job']:<34}{row['rows']:>9}{row['classes']:>9} "
                f"{row['dtype']:<9}{row['median'] * 1e3:>9.3f}{row['gb_per_s']:>7.0f}"
                f"{row.get('share_of_copy', 0):>6.0%}  {', '.join(ratios)}{pixels(row)}"
            )
    yield f"\n{'plans':<10}{shape}  share of the best's speed, * the one that is taken"
    plans = {}
    for row in results:
        if row["group"] == "plans" and "of_best" in row:
            plans.setdefault((row["dtype"], row["rows"], row["classes"]), []).append(row)
    for (dtype, rows, classes), ranking in plans.items():
        ranking.sort(key=lambda row: -row["of_best"])
        ranks = (f"{r['peer']}{'*' * r['taken']} {r['of_best']:.0%}" for r in ranking)
        yield f"{dtype:<10}{rows:>9}{classes:>9}  {', '.join(ranks)}"
    for title, group, unit in (
        ("Python's part of a call, µs", "launch", 1e6), ("on the host, ms", "host", 1e3),
    ):  # fmt: skip
        yield f"\n{title}"
        for row in results:
            if row["group"] == group and "median" in row:
                shape = f"{row['rows']}x{row['classes']}"
                yield f"{row['peer']:<34}{shape:>14} {row['median'] * unit:>9.1f}"
    for row in results:
        if "note" in row or row.get("right") is False:
            wrong = row.get("note", f"wrong by {row.get('error')}")
            yield f"failed: {label(row)} {row['peer']}: {wrong}"
    for step in run["steps"]:
        if step["state"] == "skipped":
            yield f"skipped for want of time: {step['step']} (about {step['estimate']:.0f} s)"
        elif step["state"] == "running":
            yield f"unfinished: {step['step']}"


def pixels(row):
    """The layout of a row's arrays, unless it is that of rows."""
    return f" (images of {row['image']}x{row['image']})" if "image" in row else ""

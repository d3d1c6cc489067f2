"""Long tables of which a run of the tests takes a share, another one each day."""

import datetime


def share_of(table, config, shares):
    """One of so many shares of the table, by today's date; all of it with the option --complete."""
    entries = list(table)
    if config.getoption("--complete", False):
        return entries
    return entries[datetime.date.today().toordinal() % shares :: shares]

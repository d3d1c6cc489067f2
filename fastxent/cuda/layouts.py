"""Choose how rows are addressed, loaded and stored: contiguous ones or rows in columns."""

import functools

from fastxent.cuda.access import Access, Addressing, make_row_access, make_row_addressing
from fastxent.cuda.columns import make_column_access, make_column_addressing
from fastxent.cuda.elements import Element
from fastxent.cuda.groups import ThreadPlan


@functools.cache
def make_access(element: Element, plan: ThreadPlan) -> Access:
    """The Access to rows of these elements under a plan."""
    return (make_column_access if plan.columns else make_row_access)(element, plan)


@functools.cache
def make_addressing(element: Element, plan: ThreadPlan) -> Addressing:
    """The Addressing of rows of these elements under a plan."""
    return (make_column_addressing if plan.columns else make_row_addressing)(element, plan)

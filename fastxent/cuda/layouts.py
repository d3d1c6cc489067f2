"""How rows are addressed and moved under a plan, whether their elements lie side by side or not."""

import functools

from fastxent.cuda.access import Access, Addressing, make_row_access, make_row_addressing
from fastxent.cuda.columns import make_column_access, make_column_addressing
from fastxent.cuda.elements import Element
from fastxent.cuda.groups import ThreadPlan


@functools.cache
def make_access(element: Element, plan: ThreadPlan) -> Access:
    """How rows of these elements are moved under a plan."""
    return (make_column_access if plan.columns else make_row_access)(element, plan)


@functools.cache
def make_addressing(element: Element, plan: ThreadPlan) -> Addressing:
    """Where rows of these elements are under a plan."""
    return (make_column_addressing if plan.columns else make_row_addressing)(element, plan)

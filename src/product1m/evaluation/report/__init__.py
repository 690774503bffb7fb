"""The evaluation's report: one HTML file with everything in it, and the plots beside it."""

from product1m.evaluation.report.content import (
    InstanceCard,
    QueryCard,
    ReportContent,
    ResultCard,
    choose_queries,
    thumbnail,
)
from product1m.evaluation.report.page import write_report
from product1m.evaluation.report.plots import write_plots

__all__ = [
    "InstanceCard",
    "QueryCard",
    "ReportContent",
    "ResultCard",
    "choose_queries",
    "thumbnail",
    "write_plots",
    "write_report",
]

"""The report of an evaluation: one self-contained HTML file, and the plots beside it."""

from product1m.evaluation.report.cards import AnswerCard, BoxCard, ItemPhotos, thumbnail
from product1m.evaluation.report.content import (
    QueryCard,
    ReportContent,
    choose_queries,
)
from product1m.evaluation.report.page import write_report

__all__ = [
    "AnswerCard",
    "BoxCard",
    "ItemPhotos",
    "QueryCard",
    "ReportContent",
    "choose_queries",
    "thumbnail",
    "write_report",
]

from pathlib import Path

import pytest

from product1m.evaluation.report import ReportContent, write_report
from tests.support.worlds.report_page import example_content


@pytest.fixture(scope="module")
def content() -> ReportContent:
    return example_content()


@pytest.fixture(scope="module")
def report(content: ReportContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(content, path)
    return path

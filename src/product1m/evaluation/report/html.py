"""Self-contained HTML pages: nothing in them is fetched from anywhere else."""

import base64

import jinja2


def data_uri(jpeg: bytes) -> str:
    """A photo as part of a page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def html_templates() -> jinja2.Environment:
    """Templates of the report; they escape what they are given and refuse what they lack."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("product1m.evaluation.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["data_uri"] = data_uri
    return environment

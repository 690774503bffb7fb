"""Self-contained HTML pages, which load nothing from elsewhere."""

import base64

import jinja2


def data_uri(jpeg: bytes) -> str:
    """A photo as an address that contains it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def html_templates() -> jinja2.Environment:
    """Templates of the report; they escape all values, and a missing value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("product1m.evaluation.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["data_uri"] = data_uri
    return environment

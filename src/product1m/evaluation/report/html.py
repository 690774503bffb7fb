"""Self-contained HTML pages: nothing in them is fetched from anywhere else."""

import base64

import jinja2


def data_uri(jpeg: bytes) -> str:
    """A photo as part of a page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def html_templates() -> jinja2.Environment:
    """Templates that escape what they are given, refuse what they lack, and know `data_uri`."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["data_uri"] = data_uri
    return environment

"""Instance-level product search, retrained as a workflow: CAPTURE (Product1M, ICCV 2021)."""

from importlib.metadata import version

__version__ = version("product1m")

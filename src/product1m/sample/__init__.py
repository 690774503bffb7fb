"""The sample split: rendered, or cut out of a real data set."""

from product1m.sample.cut import cut_sample
from product1m.sample.drawn.plan import SampleSizes
from product1m.sample.drawn.split import make_sample

__all__ = ["SampleSizes", "cut_sample", "make_sample"]

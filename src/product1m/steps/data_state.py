"""The first task of every run: the state of the data, on which all later tasks are cached.

It is never cached itself, reads names and hashes rather than photos where a store has them, and
imports nothing that computes: a run over unchanged data consists of this task alone.
"""

import logging
import time

from product1m.data.state import state_of

logger = logging.getLogger(__name__)


def run(
    dataset: str, backgrounds: str = "", stated: str = "", stated_backgrounds: str = ""
) -> dict[str, str]:
    """See `product1m.data.state.state_of`."""
    started = time.monotonic()
    state = state_of(dataset, backgrounds, stated, stated_backgrounds)
    for uri, digest in zip((dataset, backgrounds), state.values(), strict=True):
        if uri:
            logger.info("data_state: %s is %s", uri, digest[:12])
    logger.info("data_state: read in %.1f s", time.monotonic() - started)
    return state

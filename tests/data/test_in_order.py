"""Work for a pool: order and a bound on what is in flight."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from product1m.data.in_order import PENDING_PER_WORKER, in_order


def test_the_order_is_kept_and_no_more_tasks_are_in_flight_than_the_bound() -> None:
    lock = threading.Lock()
    started, finished = 0, 0

    def work(number: int) -> int:
        nonlocal started
        with lock:
            started += 1
        time.sleep(0.001 * (number % 3))
        return number

    with ThreadPoolExecutor(4) as pool:
        for expected, number in enumerate(in_order(pool, work, iter(range(60)), 2)):
            assert number == expected
            finished += 1
            assert started - finished < 2 * PENDING_PER_WORKER + 1
    assert finished == 60

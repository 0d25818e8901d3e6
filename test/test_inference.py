"""The inference thread: newest window first, a ledger that always closes, memory given back, no deadlock."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait

import numpy as np
import pytest

from sdt_ros.events import SpikeWindow
from sdt_ros.inference import InferenceThread, Ledger

PATIENCE_S = 10.0


class Network:
    """Stands in for the network: notes what it is given, and works only while it is let."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.threads: set[int] = set()
        self.may_work = threading.Event()
        self.may_work.set()
        self.began = threading.Event()

    def process(self, window: SpikeWindow) -> None:
        self.began.set()
        assert self.may_work.wait(PATIENCE_S)
        self.seen.append(window.index)
        self.threads.add(threading.get_ident())
        window.release()


class Memory:
    """Lends windows out and knows which have come back."""

    def __init__(self, slots: int = 10_000) -> None:
        self.home: list[int] = []
        self.spikes = np.ones((slots, 1, 2, 1, 1), np.uint8)

    def window(self, index: int) -> SpikeWindow:
        return SpikeWindow(index, self.spikes[index], 0, 1, 1, _home=self.home, _slot=index)


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def thread(network: Network) -> Iterator[InferenceThread]:
    made = InferenceThread(network.process)
    yield made
    network.may_work.set()
    made.stop()
    assert not made._thread.is_alive()


def closes(ledger: Ledger) -> bool:
    return ledger.offered == ledger.taken + ledger.skipped + ledger.waiting


def test_newest_window_replaces_the_waiting_one(thread: InferenceThread, network: Network) -> None:
    memory = Memory()
    network.may_work.clear()
    thread.offer(memory.window(0))
    assert network.began.wait(PATIENCE_S)
    for index in (1, 2, 3):
        thread.offer(memory.window(index))
    assert thread.ledger == Ledger(offered=4, taken=1, skipped=2, waiting=1)
    assert memory.home == [1, 2]  # given back at once, while the network is still busy
    network.may_work.set()
    thread.call(lambda: None)
    thread.call(lambda: None)  # calls overtake windows, so only behind the second one is 3 certain to be taken
    thread.flush()
    assert network.seen[0] == 0 and set(network.seen) <= {0, 3}
    assert thread.ledger.waiting == 0 and closes(thread.ledger)
    assert sorted(memory.home) == [0, 1, 2, 3]


def test_offer_never_waits(thread: InferenceThread, network: Network) -> None:
    memory = Memory()
    network.may_work.clear()
    thread.offer(memory.window(0))
    assert network.began.wait(PATIENCE_S)
    began = time.perf_counter()
    for index in range(1, 500):
        thread.offer(memory.window(index))
    assert time.perf_counter() - began < 1.0  # the network has not moved all the while
    assert thread.ledger.taken == 1


def test_ledger_closes_at_every_instant(thread: InferenceThread) -> None:
    memory, wrong, over = Memory(), [], threading.Event()

    def look() -> None:
        while not over.is_set():
            if not closes(thread.ledger):
                wrong.append(thread.ledger)

    looker = threading.Thread(target=look)
    looker.start()
    for index in range(5000):
        thread.offer(memory.window(index))
    thread.flush()
    over.set()
    looker.join(PATIENCE_S)
    assert not wrong
    ledger = thread.ledger
    assert ledger.offered == 5000 and ledger.waiting == 0 and closes(ledger)
    assert sorted(memory.home) == list(range(5000))  # each window's memory came back exactly once


def test_windows_are_processed_in_order_in_one_thread(thread: InferenceThread, network: Network) -> None:
    memory = Memory()
    for index in range(300):
        thread.offer(memory.window(index))
    thread.flush()
    assert network.seen == sorted(network.seen) and len(network.threads) <= 1
    assert threading.get_ident() not in network.threads


def test_call_returns_results_and_raises_errors(thread: InferenceThread, network: Network) -> None:
    memory = Memory()
    assert thread.call(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 // 0)
    thread.offer(memory.window(7))  # the thread has survived
    thread.call(lambda: None)
    thread.flush()
    assert thread.ledger.offered == 1 and closes(thread.ledger)


def test_calls_go_before_windows(thread: InferenceThread, network: Network) -> None:
    memory, order = Memory(), []
    network.may_work.clear()
    thread.offer(memory.window(0))
    assert network.began.wait(PATIENCE_S)
    thread.offer(memory.window(1))
    future = thread.submit(lambda: order.extend(network.seen))
    network.may_work.set()
    future.result(PATIENCE_S)
    assert order == [0]


def test_flush_waits_for_the_window_in_the_network(thread: InferenceThread, network: Network) -> None:
    memory = Memory()
    network.may_work.clear()
    thread.offer(memory.window(0))
    assert network.began.wait(PATIENCE_S)
    thread.offer(memory.window(1))
    threading.Timer(0.1, network.may_work.set).start()
    thread.flush()
    assert network.seen == [0] and sorted(memory.home) == [0, 1]
    assert thread.ledger == Ledger(offered=2, taken=1, skipped=1, waiting=0)
    thread.reset()
    assert thread.ledger == Ledger(0, 0, 0, 0)


def test_reset_keeps_account_of_a_waiting_window(thread: InferenceThread, network: Network) -> None:
    memory = Memory()
    network.may_work.clear()
    thread.offer(memory.window(0))
    assert network.began.wait(PATIENCE_S)
    thread.offer(memory.window(1))
    thread.reset()
    assert thread.ledger == Ledger(offered=1, taken=0, skipped=0, waiting=1)


def test_stop_ends_the_thread_and_releases_everything(network: Network) -> None:
    memory, thread = Memory(), InferenceThread(network.process)
    network.may_work.clear()
    thread.offer(memory.window(0))
    assert network.began.wait(PATIENCE_S)
    thread.offer(memory.window(1))
    threading.Timer(0.1, network.may_work.set).start()
    thread.stop()
    thread.stop()  # a second one does no harm
    thread.offer(memory.window(2))
    assert network.seen == [0] and sorted(memory.home) == [0, 1, 2]
    assert closes(thread.ledger) and thread.ledger.skipped == 2
    with pytest.raises(RuntimeError, match="stopped"):
        thread.call(lambda: None)


def test_calls_that_were_submitted_before_stop_are_answered(network: Network) -> None:
    memory, thread = Memory(), InferenceThread(network.process)
    network.may_work.clear()
    thread.offer(memory.window(0))
    assert network.began.wait(PATIENCE_S)
    futures = [thread.submit(lambda number=number: number) for number in range(3)]
    threading.Timer(0.1, network.may_work.set).start()
    thread.stop()
    assert not wait(futures, timeout=PATIENCE_S).not_done
    assert [future.result() for future in futures] == [0, 1, 2]

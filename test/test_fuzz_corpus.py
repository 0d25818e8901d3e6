"""Inputs that once went wrong, again: each file of `test/fuzz/corpus/TARGET/` through its target."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FUZZ = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(FUZZ))

from targets import TARGETS, FoundError, packets, require, to_bytes  # noqa: E402

CORPUS = sorted((FUZZ / "corpus").glob("*/*.bin"))


def test_every_target_has_a_corpus():
    assert {file.parent.name for file in CORPUS} == set(TARGETS)


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_what_was_found_once_does_no_harm(file):
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    TARGETS[file.parent.name](file.read_bytes())
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (1 << 30) / 1024


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "checkpoint"])
def test_damaged_corpus_does_no_harm_either(target):
    chance = random.Random(5)
    for file in CORPUS:
        if file.parent.name != target or file.stat().st_size > 20_000:
            continue
        data = file.read_bytes()
        for _ in range(6):
            damaged = bytearray(data)
            for _ in range(chance.randint(1, 4)):
                if damaged:
                    damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            TARGETS[target](bytes(damaged[: chance.randint(0, len(damaged))] if chance.random() < 0.3 else damaged))


@pytest.mark.parametrize("target", ["message", "calibration", "card", "metadata", "config", "yaml", "mcap", "sqlite"])
@settings(max_examples=40, deadline=None)
@given(data=st.one_of(st.binary(max_size=300), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes_are_read_or_refused(target, data):
    TARGETS[target](data)


@settings(max_examples=150, deadline=None)
@given(
    encoding=st.integers(0, 6),
    row=st.lists(
        st.tuples(st.integers(0, 15), st.none() | st.integers(0, 2**64 - 1), st.binary(max_size=200)), max_size=4
    ),
)
def test_any_packets_are_decoded_as_the_plain_reference_does_or_refused(encoding, row):
    packets(to_bytes(encoding, 0, [(flags & ~0xA, time_base, payload) for flags, time_base, payload in row]))


def test_the_targets_find_something():
    with pytest.raises(FoundError, match="no such thing"):
        require(False, "no such thing")


def test_bounds_are_checked_where_numba_is_told_to(tmp_path):
    """The checked share of `fuzz/packets.py` finds a write behind the end, which the compiled loop would not see."""
    program = (
        "import numpy as np\n"
        "from sdt_ros.events.codecs import libcaer, state\n"
        "from sdt_ros.events.sinks import EVENT_DTYPE, EventSink\n"
        "words = np.zeros(9, '<u8')\n"
        "libcaer.decode(words, 0, 0, 9, 9, state.new_state(), EventSink(np.empty(3, EVENT_DTYPE)))\n"
    )
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=200
    )
    assert ended.returncode == 1 and "IndexError" in ended.stderr

"""The event stream under loss and load: stragglers, loops, packets left undecoded, windows closed by silence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_windows import decode, encode, reference
from test_stream import CONFIG, NOW_NS, Camera, assert_grow, scene

from sdt_ros.events.encoder import ENCODINGS
from sdt_ros.events.stream import STRAGGLERS


def held(groups):
    """Those that a libcaer_cmp packet can hold."""
    return [group for group in groups if group.size and np.ptp(group["t"]) < 60_000]


def closes(camera) -> bool:
    counted = camera.stream.windows
    return counted.due == counted.finished + counted.empty + counted.shed


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_packet_behind_its_time_is_dropped_and_counted_without_starting_over(encoding):
    packets = encode(encoding, scene())
    moved = packets.copy()
    moved[40], moved[41] = moved[41], moved[40]
    moved[60:63] = [packets[62], packets[60], packets[61]]
    camera = Camera().push(moved)
    counted = camera.stream.packets
    assert (counted.reordered, counted.lost, counted.restarts, counted.duplicates) == (3, 3, 0, 0)
    left = [p for p in packets if p.seq not in (packets[40].seq, packets[60].seq, packets[61].seq)]
    assert [w.index for w in camera.windows] == [w.index for w in Camera().push(left).windows]
    assert_grow(camera.stamps())
    whole = {w.index: w.spikes for w in Camera().push(packets).windows}
    assert all(not (w.spikes & ~whole[w.index]).any() for w in camera.windows), "no event at a wrong place"


def test_old_duplicates_are_told_from_stragglers():
    packets = encode("evt3", scene())
    camera = Camera().push([*packets[:50], packets[45], packets[30], *packets[50:]])
    assert (camera.stream.packets.duplicates, camera.stream.packets.reordered) == (2, 0)
    plain = Camera().push(packets)
    assert [w.events for w in camera.windows] == [w.events for w in plain.windows]


def test_a_camera_that_restarts_is_no_straggler():
    """Its numbers begin anew, and its stamps go on."""
    packets = encode("evt3", scene(1))
    again = [replace(p, stamp_ns=p.stamp_ns + 10**9) for p in encode("evt3", scene(2))]
    camera = Camera().push(packets).push(again)
    assert (camera.stream.packets.restarts, camera.stream.packets.reordered) == (1, 0)
    assert len(camera.windows) == len(Camera().push(packets).windows) + len(Camera().push(again).windows)


def test_a_loop_shorter_than_a_straggler_can_be_late_is_followed():
    packets = encode("evt3", scene(span_us=300_000, packets=60))
    camera = Camera().push(packets).push(packets).push(packets)
    assert camera.stream.packets.restarts == 2
    assert camera.stream.packets.duplicates + camera.stream.packets.reordered == 2 * STRAGGLERS
    assert closes(camera)


@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations(range(40)),
    missing=st.sets(st.integers(0, 39), max_size=10),
    twice=st.sets(st.integers(0, 39), max_size=10),
)
def test_whatever_order_packets_come_in_each_is_accounted_for(order, missing, twice):
    packets = encode("evt3", scene(count=800, packets=40))
    # Neighbours change places only: further away, it is not the network between that did it.
    near = sorted(range(40), key=lambda k: k + order[k] % 4)
    sent = [packets[k] for k in near if k not in missing for _ in range(2 if k in twice else 1)]
    camera = Camera().push(sent)
    counted = camera.stream.packets
    assert counted.received == len(sent) and counted.restarts == 0 and closes(camera)
    taken = counted.received - counted.duplicates - counted.reordered
    first, last = (sent[0].seq, max(p.seq for p in sent)) if sent else (0, -1)
    assert taken + counted.lost == last - first + 1


# --- packets left undecoded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_windows_of_undecoded_packets_are_skipped_whole_and_counted(encoding, data):
    packets = encode(encoding, held(scene(count=2000)))
    count = len(packets)
    bounds = sorted(data.draw(st.lists(st.integers(1, count - 1), min_size=2, max_size=6, unique=True)))
    gone = {k for begin, end in zip(bounds[::2], bounds[1::2], strict=False) for k in range(begin, end)}
    camera = Camera()
    for k, p in enumerate(packets):
        if k in gone:
            camera.stream.shed(p)
        else:
            camera.stream.push(p, NOW_NS)
    plain = Camera().push(packets)
    counted, all_counted = camera.stream.windows, plain.stream.windows
    assert camera.stream.packets.shed == len(gone) and camera.stream.packets.lost == 0
    assert camera.stream.packets.received == len(packets)
    assert closes(camera) and counted.late == 0
    if max(gone, default=0) < count - 1:  # the stream has gone on since
        assert counted.due == all_counted.due, "as many windows are due, decoded or not"
    # Those that are finished are the very ones, bit for bit, and miss nothing.
    whole = {w.index: w for w in plain.windows}
    for window in camera.windows:
        np.testing.assert_array_equal(window.spikes, whole[window.index].spikes)
        assert window.events == whole[window.index].events
    touched = set()
    times = [decode([p])["t"] for p in packets]
    if encoding in ("libcaer", "libcaer_cmp", "mono"):  # the others count from a base of their own when read alone
        for window in plain.windows:
            parts = [times[k] for k in gone if times[k].size]
            if any(part.min() < window.t_end_us and part.max() >= window.t_start_us for part in parts):
                touched.add(window.index)
        assert not touched & {w.index for w in camera.windows}


def test_a_packet_of_another_stream_is_never_left_undecoded():
    packets = encode("evt3", scene(1))
    other = [replace(p, stamp_ns=p.stamp_ns + 10**9) for p in encode("mono", scene(2), first_seq=101)]
    camera = Camera().push(packets)
    for p in other:
        camera.stream.shed(p)
    assert camera.stream.packets.restarts == 1 and camera.stream.packets.shed == len(other) - 1
    with pytest.raises(ValueError, match="evt9"):
        camera.stream.shed(replace(other[-1], encoding="evt9"))
    assert camera.stream.packets.rejected == 1


def test_time_that_jumps_while_packets_are_left_out_starts_over():
    packets = encode("evt3", scene(1))
    back = [replace(p, stamp_ns=p.stamp_ns - 3_600 * 10**9) for p in encode("evt3", scene(2))]
    camera = Camera().push(packets[:50])
    for p in back[:10]:
        camera.stream.shed(p)
    camera.push(back[10:])
    assert camera.stream.packets.restarts == 1 and closes(camera)
    assert camera.windows[-1].index == Camera().push(back).windows[-1].index


# --- silence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_silence_closes_what_is_open_and_later_windows_are_as_ever(encoding):
    """A rest of a second: the window before it comes at once instead of behind it, and is the same to the bit."""
    first, second = scene(1), scene(2, start_us=1_600_000)
    first, second = held(first), held(second)
    packets = encode(encoding, [*first, *second])
    flushed, plain = Camera(), Camera().push(packets)
    flushed.push(packets[: len(first)])
    before = len(flushed.windows)
    flushed.stream.close_open_windows()
    flushed.stream.close_open_windows()  # nothing more
    assert len(flushed.windows) == before + 1
    flushed.push(packets[len(first) :])
    assert [w.index for w in flushed.windows] == [w.index for w in plain.windows]
    for window, other in zip(flushed.windows, plain.windows, strict=True):
        np.testing.assert_array_equal(window.spikes, other.spikes)
        assert window.stamp_ns == pytest.approx(other.stamp_ns, abs=1_000_000)
    assert_grow(flushed.stamps())
    assert flushed.stream.windows.late == 0 and closes(flushed)
    assert flushed.stream.windows.early >= 1


def test_events_behind_a_window_closed_by_silence_are_counted_as_late():
    """The silence was none of the sensor: a bag that was paused, a machine that stood still."""
    packets = encode("evt3", scene())
    camera = Camera().push(packets[:50])
    due = camera.stream.windows.due
    camera.stream.close_open_windows()
    closed = camera.windows[-1]
    camera.push(packets[50:])
    expected = {window.index: window.events for window in Camera().push(packets).windows}
    late = camera.stream.windows.late
    assert late > 0 and closed.events + late == expected[closed.index]
    assert camera.stream.windows.due > due and closes(camera)
    assert camera.stream.windows.due == len(reference(decode(packets), CONFIG).windows)


def test_nothing_is_closed_before_anything_has_come():
    camera = Camera()
    camera.stream.close_open_windows()
    assert not camera.windows and camera.stream.windows.due == 0

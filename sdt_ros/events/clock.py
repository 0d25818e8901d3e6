"""From the sensor's clock to ROS time."""

from __future__ import annotations

BUCKET_US = 500_000
BUCKETS = 20  # 10 s: long enough to meet undelayed packets, short enough to follow a drift of 100 ppm within 1 ms
STEP_BUCKETS = 4  # 2 s in which no packet at all is on time are no queue: the host's clock was set
STEP_NS = 300_000_000


class SensorClock:
    """Maps sensor time to ROS time by the lower envelope of header stamp minus sensor time.

    A stamp is the arrival of a packet's first bytes at the host: the sensor's time plus an offset plus a delay that is
    never negative. The least difference of the last ten seconds is therefore the best estimate of the offset; queues,
    scheduling and USB batches only ever add to it. The minimum is taken over buckets of half a second, so that it
    costs the same however many packets arrive.

    A host's clock that is set forward (NTP, GPS) looks like a delay that all packets have from then on. It is followed
    when the least delay of whole two seconds is above 0.3 s; where it was a queue after all, the first packet on time
    takes the offset back. A clock that is set back is followed at once.

    Source of the method: the discussion of metavision_driver issue 42.
    """

    def __init__(self) -> None:
        self._least: dict[int, int] = {}
        self._offset_ns: int | None = None

    def reset(self) -> None:
        """Forget everything, as when the camera has started over."""
        self._least.clear()
        self._offset_ns = None

    def update(self, stamp_ns: int, t_us: int) -> int:
        """Take one packet's stamp [ns since the epoch] and the sensor time of its first event [us].

        Returns:
            By how much stamps have stepped forward against the sensor's time, which is followed from here on [ns];
            0 where they have not.
        """
        difference = stamp_ns - t_us * 1000
        bucket = t_us // BUCKET_US
        known = self._least.get(bucket)
        if known is not None and known <= difference:
            return 0
        if known is None:
            # Jitter may take time back into the bucket before; more than that is another time.
            for old in [b for b in self._least if not bucket - BUCKETS < b <= bucket + 1]:
                del self._least[old]
        self._least[bucket] = difference
        step_ns = self._step_ns(bucket) if known is None else 0
        self._offset_ns = min(self._least.values())
        return step_ns

    def _step_ns(self, bucket: int) -> int:
        """Forget what was before a step, if there was one that long before a new bucket; returns its size [ns]."""
        recent = [self._least[b] for b in range(bucket - STEP_BUCKETS, bucket) if b in self._least]
        if self._offset_ns is None or len(recent) < STEP_BUCKETS:
            return 0
        step_ns = min(recent) - self._offset_ns
        if step_ns <= STEP_NS or self._least[bucket] - self._offset_ns <= STEP_NS:
            return 0
        for old in [b for b in self._least if b < bucket - STEP_BUCKETS]:
            del self._least[old]
        return step_ns

    def excess_ns(self, stamp_ns: int, t_us: int) -> int:
        """How much later than expected the stamp of a packet with this first sensor time is [ns]; 0 when unknown."""
        return 0 if self._offset_ns is None else stamp_ns - t_us * 1000 - self._offset_ns

    def to_ros(self, t_us: int) -> int:
        """ROS time [ns since the epoch] of the sensor time t [us].

        Raises:
            RuntimeError: no packet has been seen yet.
        """
        if self._offset_ns is None:
            raise RuntimeError("the sensor clock has seen no packet yet")
        return t_us * 1000 + self._offset_ns

"""The cache of what a teacher saw: one look a frame, shared between processes, never broken."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from sdt_distill.teachers import CachedTeacher, TeacherError, TeacherOutput


class Counting:
    """A teacher that counts the frames it was shown."""

    name = "counting"
    layers = {"a": 4, "b": 2}

    def __init__(self, key="0123456789abcdef0123", depth=True, factor=1.0):
        self.key = key
        self.shown = 0
        self.depth = depth
        self.factor = factor

    def __call__(self, frames):
        self.shown += len(frames)
        b = len(frames)
        mean = self.factor * frames.mean((1, 2, 3)).view(b, 1, 1, 1)
        features = {"a": mean * torch.ones(b, 4, 2, 3), "b": mean + torch.arange(6.0).view(1, 2, 1, 3)}
        depth = torch.where(frames[:, :1] > 0.5, frames[:, :1], torch.nan)
        return TeacherOutput(features, depth if self.depth else None, "metric" if self.depth else None)


def frames(count=6, height=5, width=7):
    return torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(0))


KEYS = [f"driving/{i}" for i in range(6)]


def assert_same(a, b):
    assert a.depth_kind == b.depth_kind
    for name in b.features:
        assert torch.equal(a.features[name], b.features[name])
    assert torch.equal(torch.nan_to_num(a.depth, -1), torch.nan_to_num(b.depth, -1))


def test_a_frame_is_seen_once(tmp_path):
    teacher = Counting()
    cached = CachedTeacher(teacher, tmp_path)
    first = cached(frames(), KEYS)
    assert teacher.shown == 6
    truth = teacher(frames())
    for name, each in truth.features.items():
        torch.testing.assert_close(first.features[name], each, atol=1e-3, rtol=1e-3)
    assert torch.equal(torch.isnan(first.depth), torch.isnan(truth.depth))
    cached.flush()
    teacher.shown = 0
    again = Counting()
    for reopened in (cached, CachedTeacher(again, tmp_path)):
        for _ in range(3):
            assert_same(reopened(frames(), KEYS), first)  # also on the first pass it gave what the disk holds
    assert teacher.shown == again.shown == 0


def test_only_new_frames_are_shown_and_order_is_kept(tmp_path):
    teacher = Counting()
    cached = CachedTeacher(teacher, tmp_path, buffer_bytes=1)  # writes at once
    everything = CachedTeacher(Counting(), tmp_path / "other")(frames(), KEYS)
    cached(frames()[:3], KEYS[:3])
    order = [5, 1, 4, 0, 5]
    mixed = cached(frames()[order], [KEYS[i] for i in order])
    assert teacher.shown == 5
    assert torch.equal(mixed.features["b"], everything.features["b"][order])
    assert "driving/3" not in cached
    assert len(cached) == 5


def test_teachers_do_not_mix(tmp_path):
    CachedTeacher(Counting(), tmp_path, buffer_bytes=1)(frames(), KEYS)
    other = Counting("fedcba9876543210", factor=2.0)
    CachedTeacher(other, tmp_path)(frames(), KEYS)
    assert other.shown == 6


def test_features_alone(tmp_path):
    cached = CachedTeacher(Counting(depth=False), tmp_path, buffer_bytes=1)
    cached(frames(), KEYS)
    output = CachedTeacher(Counting(depth=False), tmp_path)(frames(), KEYS)
    assert output.depth is None
    assert output.features["a"].shape == (6, 4, 2, 3)


def test_frames_of_two_sizes(tmp_path):
    cached = CachedTeacher(Counting(), tmp_path)
    cached(frames(2), KEYS[:2])
    cached(frames(2, 9, 9), KEYS[2:4])
    cached.flush()
    teacher = Counting()
    reopened = CachedTeacher(teacher, tmp_path)
    assert reopened(frames(2), KEYS[:2]).depth.shape == (2, 1, 5, 7)
    assert reopened(frames(2, 9, 9), KEYS[2:4]).depth.shape == (2, 1, 9, 9)
    assert teacher.shown == 0
    with pytest.raises(TeacherError, match="driving/2 was cached at another size than driving/1"):
        reopened(frames(2), KEYS[1:3])


@pytest.mark.parametrize("damage", ["short", "no data", "no json", "not json", "half written"])
def test_what_is_damaged_is_computed_again(tmp_path, damage, caplog):
    cached = CachedTeacher(Counting(), tmp_path, buffer_bytes=1)
    first = cached(frames()[:3], KEYS[:3])
    cached(frames()[3:], KEYS[3:])
    data = sorted(tmp_path.glob("*/*.bin"))[0]
    index = data.with_suffix(".json")
    if damage == "short":
        data.write_bytes(data.read_bytes()[:-2])
    elif damage == "no data":
        data.unlink()
    elif damage == "no json":
        index.unlink()
    elif damage == "not json":
        index.write_text('{"format": 1, "tea')
    else:
        index.rename(index.with_suffix(".json.new"))
    teacher = Counting()
    again = CachedTeacher(teacher, tmp_path)(frames(), KEYS)
    assert teacher.shown == 3
    assert torch.equal(again.features["b"][:3], first.features["b"])
    assert ("damaged" in caplog.text) == (damage in ("short", "no data", "not json"))


def test_old_halves_are_removed_and_young_ones_left(tmp_path):
    folder = tmp_path / Counting().key[:16]
    folder.mkdir()
    old, young = folder / "a.bin.new", folder / "b.bin.new"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    CachedTeacher(Counting(), tmp_path)
    assert not old.exists()
    assert young.exists()


def test_another_process_is_seen(tmp_path):
    teacher = Counting()
    one, two = CachedTeacher(teacher, tmp_path, buffer_bytes=1), CachedTeacher(Counting(), tmp_path, buffer_bytes=1)
    two(frames(), KEYS)
    one(frames(), KEYS)
    assert teacher.shown == 0


def fill(folder, rank):
    cached = CachedTeacher(Counting(), folder, buffer_bytes=1)
    for start in range(1_000_000):
        i = (start + 3 * rank) % 6
        cached._places.clear()  # writes the same frames over and over
        cached._seen = {path.name for path in cached._folder.glob("*.json")}
        cached(frames()[i : i + 1], KEYS[i : i + 1])


def test_killed_processes_leave_nothing_broken(tmp_path, caplog):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(tmp_path, rank)) for rank in range(2)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*/*.json"))) < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert len(list(tmp_path.glob("*/*.json"))) >= 30
    teacher = Counting()
    output = CachedTeacher(teacher, tmp_path)(frames(), KEYS)
    assert teacher.shown == 0
    assert "damaged" not in caplog.text
    assert_same(output, CachedTeacher(Counting(), tmp_path / "fresh")(frames(), KEYS))


def test_the_size_is_told_before_filling(tmp_path, caplog):
    caplog.set_level("INFO")
    cached = CachedTeacher(Counting(), tmp_path, frames=1000)
    cached(frames(), KEYS)
    each = 2 * (4 * 6 + 2 * 3 + 35)  # "b" broadcasts to [2, 1, 3]
    assert f"1000 of 1000 frames to come, {each / 1e6:.2f} MB each" in caplog.text
    with pytest.raises(TeacherError, match=r"frames need .* GB are free"):
        CachedTeacher(Counting(), tmp_path / "other", frames=10**14)(frames(), KEYS)


def test_a_full_disk_is_told_and_what_was_there_survives(tmp_path, monkeypatch, caplog):
    cached = CachedTeacher(Counting(), tmp_path, buffer_bytes=1)
    cached(frames()[:3], KEYS[:3])

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    output = cached(frames(), KEYS)  # time is lost later, and nothing else
    assert "cannot be written: No space left on device" in caplog.text
    assert f"{len(KEYS) - 3} frames will be computed again" in caplog.text
    again = Counting()
    slow = CachedTeacher(again, tmp_path / "other")
    slow(frames(), KEYS)
    with pytest.raises(TeacherError, match="cannot be written: No space left on device"):
        slow.flush()
    monkeypatch.undo()
    slow.flush()  # tried again, nothing is lost
    assert not list(tmp_path.glob("**/*.new"))
    assert_same(output, CachedTeacher(again, tmp_path / "other")(frames(), KEYS))
    assert again.shown == len(KEYS)
    teacher = Counting()
    CachedTeacher(teacher, tmp_path)(frames()[:3], KEYS[:3])
    assert teacher.shown == 0


def test_what_cannot_be_kept_is_refused(tmp_path):
    class Broken(Counting):
        def __call__(self, frames):
            return TeacherOutput({"a": torch.full((len(frames), 4, 2, 3), 1e6)})

    with pytest.raises(TeacherError, match="not finite or beyond 65504"):
        CachedTeacher(Broken(), tmp_path)(frames(), KEYS)
    with pytest.raises(ValueError, match="6 frames came with 2 keys"):
        CachedTeacher(Counting(), tmp_path)(frames(), KEYS[:2])
    (tmp_path / "file").touch()
    with pytest.raises(TeacherError, match="name another folder"):
        CachedTeacher(Counting(), tmp_path / "file")

"""`sdt eval` as its users run it: the same figures each time, both schedules, files, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import miniatures
import numpy as np
import pytest
from evaluation_bag import HEIGHT, PACKET_NS, TRUTH_TOPIC, WIDTH, ramp, stamps_20hz, write_bag

from sdt_distill.cli import main as distill
from sdt_distill.datasets import open_dataset, write_bank
from sdt_distill.datasets.simulated_config import SimulatedConfig
from sdt_ros.bags import (
    BagError,
    BagWriter,
    deserialize,
    open_bag,
    parse_event_packet,
    serialize,
    serialize_event_packet,
    spike_windows,
)
from sdt_ros.calibration import Calibration
from sdt_ros.cli import main
from sdt_ros.evaluation import METRICS, frame_metrics, panels, protocols
from sdt_ros.evaluation.command import _write_whole as write_whole
from sdt_ros.evaluation.rectify import Rectifier
from sdt_ros.evaluation.spread import is_one_of, spread_evenly
from sdt_ros.events import PacketDecoder
from sdt_ros.lens import focal_length
from sdt_ros.runtime import DepthEstimator
from sdt_ros.simulation.patterns import EVENTS_TOPIC, INFO_TOPIC, START_NS
from sdt_ros.smoothing import USUAL_SMOOTHING_S, DepthSmoother
from sdt_ros.weights import weights_file

UNTRAINED = ("--untrained", "sdt_tiny", "--device", "cpu")


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp("bags") / "ramp")


@pytest.fixture(scope="module")
def scored(bag: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    """The folder with everything that a run writes, its figures, and what it printed."""
    out = tmp_path_factory.mktemp("out")
    files = ("--save", str(out), "--json", str(out / "figures.json"))
    ended = subprocess.run(
        [sys.executable, "-m", "sdt_ros.cli", "eval", str(bag), *UNTRAINED, *files],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return out, json.loads((out / "figures.json").read_text()), ended.stdout


def test_two_runs_are_equal_to_the_last_bit(bag: Path, scored: tuple[Path, dict, str], tmp_path: Path):
    out, first, _ = scored
    time.sleep(2.1)  # zip files keep times in steps of two seconds: none must show
    assert main(["eval", str(bag), *UNTRAINED, "--save", str(tmp_path), "--json", str(tmp_path / "again.json")]) == 0
    assert (tmp_path / "ramp.npz").read_bytes() == (out / "ramp.npz").read_bytes()
    again = json.loads((tmp_path / "again.json").read_text())
    del again["timing"]
    assert again == {name: value for name, value in first.items() if name != "timing"}


def test_depth_is_saved_and_is_what_was_scored(scored: tuple[Path, dict, str]):
    out, content, _ = scored
    with np.load(out / "ramp.npz") as saved:
        depth, stamps = saved["depth"], saved["stamp"]
    assert (depth.dtype, depth.shape, stamps.dtype) == (np.float32, (len(stamps), HEIGHT, WIDTH), np.int64)
    # The first truth comes 50 ms after the start: its window would begin before the events.
    assert stamps.tolist() == stamps_20hz(1)[1:] and content["counts"]["windows_before_events"] == 1
    assert [frame["truth_stamp_ns"] for frame in content["frames"]] == stamps.tolist()
    rows = []
    for one, stamp, frame in zip(depth, stamps, content["frames"], strict=True):
        chosen = protocols["mvsec"].select(one, ramp(t_s=(stamp - START_NS) / 1e9))
        rows.append(frame_metrics(chosen.prediction, chosen.truth))
        assert frame["pixels"] == chosen.truth.size and {name: frame[name] for name in METRICS} == rows[-1]
    for name in METRICS:
        assert content["metric"]["network"][name] == pytest.approx(np.mean([row[name] for row in rows]), rel=1e-12)


def test_depth_at_the_truth_is_that_of_the_events_before_its_stamp(bag: Path, scored: tuple[Path, dict, str]):
    """Against a plain reckoning: all events at once, and the clock's offset from the packets up to the stamp."""
    out, content, _ = scored
    decoder, packets = PacketDecoder(), []
    with open_bag(bag) as reader:
        for message in reader.messages([EVENTS_TOPIC]):
            packet = parse_event_packet(message.data)
            events = decoder.decode(packet.encoding, packet.width, packet.height, packet.time_base, packet.payload)
            packets.append((packet.stamp_ns, events))
    every = np.concatenate([events for _, events in packets])
    estimator = DepthEstimator.untrained("sdt_tiny", "cpu")
    saved = np.load(out / "ramp.npz")
    for number in (0, 9, 17):
        stamp = int(saved["stamp"][number])
        # Packets are stamped at their end, 2 ms after their first event at most: so much is sensor time behind.
        offset = min(sent - int(events["t"][0]) * 1000 for sent, events in packets if sent <= stamp)
        assert START_NS < offset <= START_NS + PACKET_NS
        edges = [math.ceil((stamp - offset) / 1000) - 50_000 + 12_500 * k for k in range(5)]
        spikes = np.zeros((4, 2, HEIGHT, WIDTH), np.uint8)
        for k in range(4):
            inside = every[(every["t"] >= edges[k]) & (every["t"] < edges[k + 1])]
            spikes[k, inside["p"], inside["y"], inside["x"]] = 1
        assert content["frames"][number]["spike_density"] == spikes.mean()
        np.testing.assert_array_equal(saved["depth"][number], estimator(spikes))


def test_scores_are_told_whatever_cannot_be_written(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """What comes in the way while it runs: what is there before is refused before."""
    monkeypatch.setattr("sdt_ros.evaluation.command.wrong_arguments", lambda _: "")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    files = ["--json", str(tmp_path / "folder"), "--report", str(tmp_path / "r.html"), "--save", str(tmp_path / "file")]
    assert main(["eval", str(bag), *UNTRAINED, *files]) == 1
    told = capsys.readouterr()
    assert "RMSE log" in told.out, "the table is lost"
    assert f"cannot write {tmp_path / 'folder'}: " in told.err and str(tmp_path / "file") in told.err
    assert (tmp_path / "r.html").read_text().endswith("</html>\n"), "one file that cannot be written costs another"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "r.html"]


def test_a_device_is_written_to_and_not_replaced(bag: Path, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo() and os.read(reader, 9) == b"text"
    os.close(reader)


def test_a_split_that_is_not_there_whole_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    miniatures.write_dense(tmp_path / "dense", "valid_sequence_00_town06")
    command = ["eval", "--dataset", "dense", "--root", str(tmp_path / "dense"), "--split", "validation", *UNTRAINED]
    assert main([*command, "--json", str(tmp_path / "x.json")]) == 0
    recording = json.loads((tmp_path / "x.json").read_text())["settings"]["recording"]
    assert recording.endswith("split validation without 1 of its recordings")
    capsys.readouterr()
    assert distill(["data", "check", str(tmp_path / "dense"), "--split", "validation"]) == 1
    assert "of the split there lack valid_sequence_01_town07" in capsys.readouterr().out


def test_figures_say_what_they_are_of(scored: tuple[Path, dict, str]):
    _, content, printed = scored
    assert printed.startswith("*** UNTRAINED WEIGHTS") and printed.count("UNTRAINED WEIGHTS") == 2
    assert content["trained"] is False and content["settings"]["protocol"]["far_m"] == 80
    assert set(content["metric"]) == set(content["median_scaled"]) == {"network", "constant median", "mean map"}
    # The truth shrinks by 10 % a second: the map of means is close, one depth for all is not.
    assert content["metric"]["mean map"]["abs_rel"] < 0.04 < 0.5 < content["metric"]["constant median"]["abs_rel"]
    assert content["median_scaled"]["mean map"]["abs_rel"] < 0.001
    assert sum(band["pixel_share"] for band in content["bands"]) == pytest.approx(1)
    assert content["energy_mj"] > 0 and len(content["firing_rates"]) > 5 and content["windows_measured"] == 1
    assert content["counts"]["pixels"] == sum(frame["pixels"] for frame in content["frames"])
    assert content["counts"]["missing_share"] == 0 and content["versions"]["torch"]
    assert content["settings"]["network"] == "sdt_tiny" and 9e5 < content["settings"]["parameters"] < 1e6
    assert content["settings"]["weights_sha256"] == ""  # there is no file


def test_what_weights_tell_of_their_uncertainty_is_held_against_the_truth(
    scored: tuple[Path, dict, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert scored[1]["uncertainty"] is None, "random weights tell nothing"
    bank, out = tmp_path / "bank", tmp_path / "figures.json"
    write_bank(bank, SimulatedConfig.from_dict({"camera": "64x48", "group": 4, "texture_sets": 1, "samples": 4}))
    command = ["eval", "--dataset", "simulation", "--root", str(bank), "--weights", "sdt_tiny", "--device", "cpu"]
    assert main([*command, "--probes", "--json", str(out)]) == 0
    told = json.loads(out.read_text())["uncertainty"]
    assert f"within one deviation for {told['within_1_deviation']:.0%} of the pixels" in capsys.readouterr().out
    estimator = DepthEstimator.from_checkpoint("sdt_tiny", "cpu")
    off, deviations = [], []
    dataset = open_dataset(bank)
    for sample in (dataset[index] for index in range(4)):
        assert sample.intrinsics is not None
        estimate = estimator.estimate(sample.spikes, focal_px=focal_length(sample.intrinsics))
        deviation, known = estimate.deviation(), protocols["mvsec"].valid(sample.depth)
        assert deviation is not None
        off.append(np.abs(np.log(np.minimum(estimate.depth, 80) / np.minimum(sample.depth, 80)))[known])
        deviations.append(deviation[known])
    error, deviation = np.concatenate(off), np.concatenate(deviations)
    assert told["pixels"] == error.size, "probes are not counted"
    assert told["within_1_deviation"] == pytest.approx(np.mean(error <= deviation), abs=1e-3)
    assert told["surest"][-1]["delta1"] == pytest.approx(np.mean(error < math.log(1.25)), abs=1e-3)


def test_schedule_node_scores_the_nearest_truth(bag: Path, tmp_path: Path):
    options = ("--schedule", "node", "--rate-hz", "40", "--save", str(tmp_path), "--json", str(tmp_path / "a.json"))
    assert main(["eval", str(bag), *UNTRAINED, *options]) == 0
    content = json.loads((tmp_path / "a.json").read_text())
    estimator = DepthEstimator.untrained("sdt_tiny", "cpu")
    windows = list(spike_windows(bag, rate_hz=40.0, min_events=100))
    with np.load(tmp_path / "ramp.npz") as saved:
        assert saved["stamp"].tolist() == [window.stamp_ns for window in windows]
        smooth = DepthSmoother(USUAL_SMOOTHING_S, estimator.window_ms / 1e3)  # as the node does
        for depth, window in zip(saved["depth"], windows, strict=True):
            np.testing.assert_array_equal(depth, smooth(estimator(window.spikes), window.stamp_ns))
    # Every other window has no truth within 12.5 ms, the others one at 2 ms.
    counts = content["counts"]
    assert counts["frames_scored"] == 18 and counts["depth_unmatched"] == counts["depth_images"] - 18 > 15
    for frame in content["frames"]:
        assert abs(frame["stamp_ns"] - frame["truth_stamp_ns"]) < 3_000_000


class Page(HTMLParser):
    """What a page refers to, and whether its elements close in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: Counter[str] = Counter()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_is_one_page_that_needs_nothing_else(bag: Path, scored: tuple[Path, dict, str], tmp_path: Path):
    files = [tmp_path / "one.html", tmp_path / "two.html"]
    for file in files:
        assert main(["eval", str(bag), *UNTRAINED, "--report", str(file)]) == 0
    one, two = (re.sub(r"<footer>.*</footer>", "", file.read_text()) for file in files)
    assert one == two, "all but the time it took is the same each time"
    page = Page(one)
    assert not page.open and page.tags["svg"] == 3 and not page.tags["script"] + page.tags["link"]
    assert page.sources and all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)
    assert "url(http" not in one and "@import" not in one
    assert page.tags["img"] == 6 * 4 + 2 * 3, "six frames in four pictures, and their scales twice"
    content = scored[1]
    assert "UNTRAINED WEIGHTS" in page.text and "Scores when the scale is given away" in page.text
    for guess in ("network", "constant median", "mean map"):
        assert f"{content['metric'][guess]['abs_rel']:.4f}" in page.text
    for band in content["bands"]:
        for guess in ("network", "constant median", "mean map"):
            assert not band["pixel_share"] or f"{band[guess]['abs_rel']:.4f}" in page.text
    highest = max(content["frames"], key=lambda frame: frame["abs_rel"])
    assert f"stamp {highest['stamp_ns']} ns" in page.text.partition("Worst frames")[2].partition("events,")[2][:40]
    assert content["versions"]["torch"] in page.text and "packets lost" in page.text


def test_pictures_show_depth_and_errors_by_colour():
    truth = np.array([[4.0, 4, 4, 4, np.nan]])
    prediction = np.array([[4.0, 40, 0.4, 4, 4]])
    mask = np.array([[True, True, True, False, False]])
    right, far, near, unscored, unknown = panels.error(prediction, truth, mask)[0].astype(int)
    assert right.min() > 230 and far[2] > far[0] + 50 and near[0] > near[2] + 50
    assert unscored.tolist() == unknown.tolist() == [236, 236, 232]
    shown = panels.depth(np.array([[1.0, 80.0, np.nan, np.inf, 0]]), 1, 80)[0].astype(int)
    assert shown[0][0] > shown[0][2] and shown[1][2] > shown[1][0], "near red, far blue"
    assert shown[2:].tolist() == [[236, 236, 232]] * 3


def test_truth_of_half_the_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    half = write_bag(tmp_path / "half", 0.3, depth=lambda t_s: ramp(HEIGHT // 2, WIDTH // 2, t_s))
    assert main(["eval", str(half), *UNTRAINED, "--json", str(tmp_path / "a.json")]) == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert 40 * 60 < content["frames"][0]["pixels"] < 48 * 64
    capsys.readouterr()
    odd = write_bag(tmp_path / "odd", 0.3, depth=lambda t_s: ramp(HEIGHT, WIDTH - 28, t_s))
    assert main(["eval", str(odd), *UNTRAINED]) == 1
    assert f"{odd}: {TRUTH_TOPIC}, image 0: the truth is 100x96 px, the sensor 128x96" in capsys.readouterr().err


def test_what_cannot_be_scored_is_refused(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sdt_ros.evaluation.command.default_weights", lambda: None)

    def refused(*arguments: str) -> str:
        assert main(["eval", *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("sdt eval: ") and error.count("\n") == 1
        return error

    missing = refused(str(bag), *UNTRAINED, "--truth-topic", "/truth")
    assert f"{bag} has no topic /truth; there are: " in missing and EVENTS_TOPIC in missing and TRUTH_TOPIC in missing
    assert "has no topic /dvs" in refused(str(bag), *UNTRAINED, "--events-topic", "/dvs")
    assert "there is no bag at" in refused(str(tmp_path / "nothing"), *UNTRAINED)
    assert "--weights, or try without by --untrained" in refused(str(bag), "--device", "cpu")
    assert "fewer events than --min-events 1000000" in refused(str(bag), *UNTRAINED, "--min-events", "1000000")
    other = refused(str(bag), *UNTRAINED, "--camera-info", EVENTS_TOPIC)
    assert f"{EVENTS_TOPIC} is of event_camera_msgs/msg/EventPacket, --camera-info takes sensor_msgs" in other
    later = write_bag(tmp_path / "later", 0.2, [START_NS + 10**12, START_NS + 10**12 + 1], lambda t_s: ramp())
    for schedule in ("truth", "node"):
        error = refused(str(later), *UNTRAINED, "--schedule", schedule)
        assert str(later) in error and "1700001000.000 s, images 0 to 1" in error and "one clock" in error


def test_packets_that_cannot_be_read_are_named(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with open_bag(bag) as source, BagWriter(tmp_path / "odd") as target:
        for number, message in enumerate(source.messages([EVENTS_TOPIC, TRUTH_TOPIC])):
            data = message.data
            if message.topic == EVENTS_TOPIC and number > 40:
                data = serialize_event_packet(replace(parse_event_packet(data), encoding="evt4"))
            target.write(message.topic, message.type, message.timestamp_ns, data)
    assert main(["eval", str(tmp_path / "odd"), *UNTRAINED, "--schedule", "truth"]) == 1
    assert re.search(rf"odd: {EVENTS_TOPIC}, packet (39|40|41): .*evt4.*evt3", capsys.readouterr().err)


def test_packets_that_cannot_be_read_are_left_out_as_the_node_does(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    def spoil(name: str, spoiled: Callable[[int], bool]) -> tuple[int, dict[str, Any]]:
        """Exit code and figures of a bag in which some packets are of another encoding, or cut off."""
        packets = 0
        with open_bag(bag) as source, BagWriter(tmp_path / name) as target:
            for message in source.messages([EVENTS_TOPIC, TRUTH_TOPIC]):
                data = message.data
                if message.topic == EVENTS_TOPIC:
                    packets += 1
                    if spoiled(packets):
                        odd = serialize_event_packet(replace(parse_event_packet(data), encoding="evt4"))
                        data = odd if packets % 2 else data[:20]
                target.write(message.topic, message.type, message.timestamp_ns, data)
        caplog.clear()
        json_file = tmp_path / f"{name}.json"
        options = ["--schedule", "node", "--json", str(json_file)]
        code = main(["eval", str(tmp_path / name), *UNTRAINED, *options])
        return code, json.loads(json_file.read_text()) if code == 0 else {}

    code, sound = spoil("sound", lambda packet: False)
    assert code == 0 and sound["counts"]["packets_unreadable"] == 0 and "left out" not in caplog.text
    code, some = spoil("some", lambda packet: packet in (41, 42))
    assert code == 0 and some["counts"]["packets_unreadable"] == 2
    assert some["counts"]["windows_due"] == sound["counts"]["windows_due"]
    assert 0 < some["counts"]["events"] < sound["counts"]["events"]
    assert re.search(
        rf"2 packets are left out, as the node does; the first: .*{EVENTS_TOPIC}, packet 40: .*evt4", caplog.text
    )
    assert "2 packets that cannot be read" in capsys.readouterr().out
    code, _ = spoil("none", lambda packet: True)
    assert code == 1
    assert re.search(rf"no packet can be read: .*{EVENTS_TOPIC}, packet 0", capsys.readouterr().err)


def test_the_first_calibration_that_is_one_is_taken_and_what_is_taken_is_told(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    def told(name: str, calibrated: Callable[[int], bool], twice: bool = False) -> str:
        """What is printed for a bag some of whose camera_info are calibrated, and whose events may be there twice."""
        infos = 0
        with open_bag(bag) as source, BagWriter(tmp_path / name) as target:
            for message in source.messages([EVENTS_TOPIC, INFO_TOPIC, TRUTH_TOPIC]):
                data = message.data
                if message.topic == INFO_TOPIC:
                    infos += 1
                    if not calibrated(infos):
                        info = deserialize(message.type, data)
                        info.k = np.zeros(9)
                        data = serialize(info)
                target.write(message.topic, message.type, message.timestamp_ns, data)
                if twice and message.topic == EVENTS_TOPIC:
                    target.write("/other/events", message.type, message.timestamp_ns, data)
        assert infos > 3
        caplog.clear()
        assert main(["eval", str(tmp_path / name), "--weights", str(weights_file("sdt_tiny")), "--device", "cpu"]) == 0
        return capsys.readouterr().out

    printed = told("late", lambda info: info > 2)
    assert f"events     {EVENTS_TOPIC}" in printed
    assert f"lens       calibration of {INFO_TOPIC}: " in printed and not caplog.text
    printed = told("never", lambda info: False, twice=True)
    assert f"lens       no calibration on {INFO_TOPIC}" in printed
    assert "a lens of 71 degrees across; name its topic by --camera-info" in caplog.text
    assert f"events on {EVENTS_TOPIC}, /other/events: {EVENTS_TOPIC} is taken, choose by --events-topic" in caplog.text


def test_a_calibration_of_another_sensor_is_not_used(bag: Path, caplog: pytest.LogCaptureFixture):
    depth = np.ones((HEIGHT, WIDTH), np.float32)
    with open_bag(bag) as reader:
        rectifier = Rectifier.from_bag(reader, EVENTS_TOPIC)
        assert rectifier(depth) is depth and "already the rectified one" in rectifier.text
        assert "no calibration" in Rectifier.from_bag(reader, "/other/events").text  # the one there is another's
        with pytest.raises(BagError, match="no topic /mine"):
            Rectifier.from_bag(reader, EVENTS_TOPIC, "/mine")
    k = np.array([[100.0, 0, 20], [0, 100, 15], [0, 0, 1]])
    p = np.hstack([k, np.zeros((3, 1))])
    other = Rectifier(Calibration(40, 30, k, np.array([-0.3, 0, 0, 0, 0]), "plumb_bob", np.eye(3), p), "/c")
    assert other(depth) is depth and "is for 40x30 px, the sensor has 128x96" in other.text
    assert "is for 40x30 px" in caplog.text


# --- data sets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "write", "far_m"),
    [
        ("mvsec", lambda root: miniatures.write_mvsec(root), 80),
        ("dsec", lambda root: miniatures.write_dsec(root), 80),
        ("dense", lambda root: miniatures.write_dense(root), 1000),
        ("bag", lambda root: miniatures.write_bag(root / "bag"), 80),
    ],
)
def test_data_sets_are_scored_by_their_own_protocol(
    tmp_path: Path, name: str, write: Callable[[Path], object], far_m: int, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")
    files = ("--json", str(tmp_path / "a.json"), "--save", str(tmp_path / "saved"))
    sets = ("--dataset", name, "--root", str(tmp_path / "data"), "--samples", "2")
    assert main(["eval", *sets, *UNTRAINED, *files]) == 0
    content = json.loads((tmp_path / "a.json").read_text())
    dataset = open_dataset(tmp_path / "data", name)
    samples = [dataset[number] for number in spread_evenly(len(dataset), 2)]
    assert content["settings"]["protocol"]["far_m"] == far_m and f"cut at {far_m} m" in capsys.readouterr().out
    assert content["counts"]["samples"] == len(dataset) and content["counts"]["frames_scored"] == 2
    assert [frame["stamp_ns"] for frame in content["frames"]] == [sample.stamp_ns for sample in samples]
    (saved,) = (tmp_path / "saved").iterdir()
    assert saved.stem == samples[0].sequence and list(content["groups"]) == [saved.stem]
    estimator = DepthEstimator.untrained("sdt_tiny", "cpu")
    with np.load(saved) as arrays:
        assert arrays["stamp"].dtype == np.int64 and arrays["stamp"].tolist() == [one.stamp_ns for one in samples]
        for depth, sample, frame in zip(arrays["depth"], samples, content["frames"], strict=True):
            np.testing.assert_array_equal(depth, estimator(sample.spikes))
            protocol = next(one for one in protocols.values() if one.far_m == far_m)
            chosen = protocol.select(depth, sample.depth)
            assert {key: frame[key] for key in METRICS} == frame_metrics(chosen.prediction, chosen.truth)


def test_simulated_samples_are_scored_family_by_family(tmp_path: Path):
    config = SimulatedConfig.from_dict({"samples": 8, "camera": "64x48", "family": "mixed", "split": "test", "seed": 3})
    write_bank(tmp_path / "bank", config)
    files = ("--json", str(tmp_path / "a.json"), "--save", str(tmp_path / "saved"))
    assert main(["eval", "--dataset", "simulation", "--root", str(tmp_path / "bank"), *UNTRAINED, *files]) == 0
    content = json.loads((tmp_path / "a.json").read_text())
    families = {"driving", "hallway", "tabletop", "flying"}
    assert set(content["groups"]) == families == {path.stem for path in (tmp_path / "saved").iterdir()}
    assert [group["frames"] for group in content["groups"].values()] == [2, 2, 2, 2]
    first = open_dataset(tmp_path / "bank")[0]
    chosen = protocols["mvsec"].select(DepthEstimator.untrained("sdt_tiny", "cpu")(first.spikes), first.depth)
    expected = frame_metrics(chosen.prediction, chosen.truth)
    assert {key: content["frames"][0][key] for key in METRICS} == expected


def test_recordings_are_scored_apart_with_probes_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("outdoor_day1", "outdoor_day2"):
        miniatures.write_mvsec(tmp_path / "mvsec", name)
    files = ("--json", str(tmp_path / "a.json"), "--report", str(tmp_path / "a.html"), "--probes", "--probe-every", "2")
    assert main(["eval", "--dataset", "mvsec", "--root", str(tmp_path / "mvsec"), *UNTRAINED, *files]) == 0
    printed, content = capsys.readouterr().out, json.loads((tmp_path / "a.json").read_text())
    assert list(content["groups"]) == ["outdoor_day1", "outdoor_day2"]
    assert sum(group["frames"] for group in content["groups"].values()) == content["counts"]["frames_scored"] >= 4
    for group in content["groups"].values():
        assert set(group["metric"]) == {"network", "constant median", "mean map"} and group["floor_constant_m"] > 0
    assert set(content["probes"]) == {"blank", "first_bin", "reversed"} and content["settings"]["probe_every"] == 2
    probed = sum(is_one_of(2, number) for number in range(content["counts"]["frames_scored"]))
    assert content["probed"]["frames"] == probed
    for probe in content["probes"].values():
        assert set(probe["metric"]) == set(METRICS) and probe["metric"] != content["probed"]["metric"]
    page = Page((tmp_path / "a.html").read_text())
    for text in (printed, page.text):
        assert "outdoor_day2" in text and "reversed" in text and "blank" in text
        assert f"{content['probes']['blank']['metric']['abs_rel']:.4f}" in text
        assert f"{content['groups']['outdoor_day2']['metric']['mean map']['abs_rel']:.4f}" in text
    assert not page.open and not page.tags["script"]
    # Any recording of a split, and no other.
    sets = ("--dataset", "mvsec", "--root", str(tmp_path / "mvsec"), "--split", "test_day")
    assert main(["eval", *sets, *UNTRAINED, "--json", str(tmp_path / "b.json")]) == 0
    assert list(json.loads((tmp_path / "b.json").read_text())["groups"]) == ["outdoor_day1"]


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_weights_and_their_card_are_not_overwritten(tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]):
    for name, what in (("g.json", "the card of the weights"), ("g.safetensors", "the weights")):
        (tmp_path / name).write_text("mine")
        out = f"{tmp_path}/../{tmp_path.name}/{name}"
        assert main(["eval", ".", "--weights", str(tmp_path / "g.safetensors"), option, out]) == 2
        assert f"{option} {out} is {what}, which it would overwrite" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((), 2, "name either a bag, or a data set"),
        (("bag", "--dataset", "mvsec"), 2, "name either a bag, or a data set"),
        (("--dataset", "mvsec"), 2, "--dataset mvsec needs --root DIR"),
        (("bag", "--samples", "3"), 2, "--samples is for data sets only"),
        (("--dataset", "mvsec", "--root", ".", "--schedule", "node"), 2, "--schedule node is for a bag only"),
        (("--dataset", "mvsec", "--root", ".", "--smoothing-s", "1"), 2, "--smoothing-s is for a bag only"),
        ((".", "--live", "--smoothing-s", "0"), 2, "--smoothing-s is not for it"),
        (("--dataset", "mvsec", "--root", ".", "--no-hold-scale"), 2, "--no-hold-scale is for a bag only"),
        ((".", "--live", "--no-hold-scale"), 2, "--no-hold-scale is not for it"),
        ((".", "--smoothing-s", "-1"), 2, "--smoothing-s is -1"),
        ((".", "--rows", "0"), 2, "--rows is 0, expected at least 1\n"),
        ((".", "--min-events", "-1"), 2, "--min-events is -1, expected at least 0"),
        ((".", "--device", "gpu"), 2, "unknown device 'gpu'; expected auto, cpu, cuda or cuda:N"),
        ((".", "--runtime", "int8"), 2, "unknown runtime 'int8'; expected one of auto, eager"),
        ((".", "--untrained", "large"), 2, "--untrained is 'large', expected one of sdt, sdt_small"),
        ((".", "--schedule", "node", "--rate-hz", "nan"), 2, "--rate-hz is nan, expected 0.1 to 1000 Hz"),
        ((".", "--live", "--late-ms", "-4"), 2, "--late-ms is -4, expected a finite number above 0"),
        ((".", "--live", "--start-s", "nan"), 2, "--start-s is nan, expected a finite number of at least 0"),
        ((".", "--live", "--start-s", "-1"), 2, "--start-s is -1"),
        ((".", "--live", "--node", "bad name"), 2, "--node is 'bad name', expected the full name of a node"),
        ((".", "--live", "--node", ""), 2, "--node is ''"),
        ((".", "--live", "--min-events", "5"), 2, "--min-events is not for it"),
        ((".", "--probe-every", "2"), 2, "--probe-every has no effect without --probes"),
        ((".", "--rate-hz", "20"), 2, "--rate-hz has no effect without --schedule node"),
        ((".", "--node", "/depth"), 2, "--node has no effect without --live"),
        ((".", "--late-ms", "9"), 2, "--late-ms has no effect without --live"),
        ((".", "--start-s", "9"), 2, "--start-s has no effect without --live"),
        ((".", "--no-hold-scale"), 2, "--no-hold-scale has no effect without a --smoothing-s above 0"),
        ((".", "--json", "EMPTY"), 2, "--json EMPTY is a folder; name a file"),
        ((".", "--report", "EMPTY"), 2, "--report EMPTY is a folder; name a file"),
        ((".", "--json", "x", "--report", "./x"), 2, "--report x is the file of --json, which it would overwrite"),
        ((".", "--save", __file__), 2, f"--save {__file__}: {__file__} is a file, no folder"),
        ((__file__, "--json", __file__), 2, "is part of the recording, which it would overwrite"),
        (("--dataset", "mvsec", "--root", "EMPTY", *UNTRAINED), 1, "there is no recording of this layout"),
        (("--dataset", "mvsec", "--root", "EMPTY", "--split", "best", *UNTRAINED), 1, "EMPTY"),
    ],
)
def test_wrong_arguments_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, text: str
):
    given = [str(tmp_path) if argument == "EMPTY" else argument for argument in arguments]
    assert main(["eval", *given]) == code
    error = capsys.readouterr().err
    assert error.startswith("sdt eval: ") and text.replace("EMPTY", str(tmp_path)) in error

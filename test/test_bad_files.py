"""Files that lie: each gives one clear error that names the file and the fix, and no traceback at the command line."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from rosbags.rosbag2 import storage_mcap

from sdt_ros.bags import BagError, open_bag
from sdt_ros.bags.bounds import MOST_UNPACKED
from sdt_ros.calibration import Calibration, CalibrationError
from sdt_ros.network import load_checkpoint
from sdt_ros.network.card import Card, CheckpointError
from sdt_ros.text_files import TextFileError, parse_json, parse_yaml, read_text

CORPUS = Path(__file__).parent / "fuzz/corpus"


def corpus(target, name):
    return (CORPUS / target / f"{name}.bin").read_bytes()


@pytest.mark.parametrize(
    ("target", "file", "message"),
    [
        ("sqlite", "view-that-never-ends", "is a view, a trigger or computed"),
        ("sqlite", "computed-column-of-gigabytes", "is a view, a trigger or computed"),
        ("sqlite", "message-is-a-text", "a message is no bytes"),
        ("sqlite", "time-is-a-text", "damaged or incomplete"),
        ("sqlite", "topic-without-a-name", "damaged or incomplete"),
        ("sqlite", "message-unpacks-to-gigabytes", "unpack to more than"),
        ("mcap", "zstd-chunk-unpacks-to-more-than-it-says", "unpack to more than the 100"),
        ("mcap", "lz4-chunk-unpacks-to-more-than-it-says", "unpack to more than the 100"),
        ("mcap", "zstd-chunk-says-it-unpacks-to-gigabytes", f"at most {MOST_UNPACKED} are read"),
        ("mcap", "chunk-size-of-exabytes", "are read"),
        ("packed", "unpacks-to-gigabytes", "no recording does"),
    ],
)
def test_damaged_recordings_are_refused_by_name(tmp_path, target, file, message):
    path = tmp_path / {"sqlite": "bag.db3", "mcap": "bag.mcap", "packed": "bag.db3.zstd"}[target]
    path.write_bytes(corpus(target, file))
    with pytest.raises(BagError, match=message) as caught, open_bag(path) as bag:
        list(bag.messages())
    assert str(tmp_path) in str(caught.value)


def test_rosbags_still_unpacks_chunks_where_they_are_bounded():
    packed = zstandard.compress(bytes(1000))
    with pytest.raises(BagError, match="more than the 10"):
        storage_mcap.decompress(packed, "zstd", 10, 0)
    assert storage_mcap.decompress(packed, "zstd", 1000, 0) == bytes(1000)


@pytest.mark.parametrize("ending", [".db3", ".mcap"])
@pytest.mark.parametrize("keep", [0, 1, 7, 100, 5000])
def test_recordings_cut_anywhere_are_refused_or_read_in_part(recording, tmp_path, ending, keep):
    source = next(iter(sorted(recording.glob("*.db3")) + sorted(recording.glob("*.mcap"))))
    if source.suffix != ending:
        pytest.skip(f"the recording is no {ending}")
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes()[:keep])
    with pytest.raises(BagError, match="damaged or incomplete") as caught, open_bag(path) as bag:
        list(bag.messages())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file-names-are-numbers", "relative_file_paths is no list of texts"),
        ("topics-are-no-mappings", "is not what rosbag2 writes"),
        ("version-of-infinity", "is not what rosbag2 writes"),
        ("tag-that-runs-code", "python/object/apply"),
    ],
)
def test_metadata_that_lies_is_refused(tmp_path, name, message):
    (tmp_path / "bag.db3").write_bytes(b"")
    (tmp_path / "metadata.yaml").write_bytes(corpus("metadata", name))
    with pytest.raises(BagError, match=message) as caught:
        open_bag(tmp_path)
    assert "metadata.yaml" in str(caught.value) and "give the .db3 or .mcap file itself" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aliases-for-ten-billion-numbers", "aliases stand for more than"),
        ("numbers-that-overflow-when-squared", "must be finite and at most 1e"),
        ("not-a-number", "must be finite and at most 1e"),
        ("focal-length-of-nothing", "focal lengths must be at least"),
        ("width-of-a-billion", "1000000000x90 px makes no sense"),
        ("size-of-infinity", "not as camera_calibration writes it"),
        ("tag-that-runs-code", "no YAML: could not determine a constructor"),
    ],
)
def test_calibrations_that_lie_are_refused(tmp_path, name, message):
    path = tmp_path / "camera.yaml"
    path.write_bytes(corpus("calibration", name))
    with pytest.raises(CalibrationError, match=message) as caught:
        Calibration.from_url(path.as_uri())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("network-larger-than-memory", "lacks"),
        ("header-longer-than-the-file", "damaged or no safetensors file"),
        ("tensors-overlap", "damaged or no safetensors file|lacks"),
        ("tensor-twice", "damaged or no safetensors file|lacks"),
    ],
)
def test_checkpoints_that_lie_are_refused(tmp_path, name, message):
    data = corpus("checkpoint", name)
    (length,) = struct.unpack_from("<I", data)
    path = tmp_path / "x.safetensors"
    path.write_bytes(data[4 : 4 + length])
    path.with_suffix(".json").write_bytes(data[4 + length :])
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number-of-five-thousand-digits", "no JSON"),
        ("number-beyond-floating-point", "'steps' is 1000"),
        ("brackets-without-end", "nested too deep"),
        ("key-twice", "key 'bins' is there twice"),
        ("window-not-a-number", "'window_ms' is nan"),
        ("range-of-depths-is-a-list", "must be a mapping"),
        ("network-of-a-trillion-channels", "'embed_dim' is 1099511627776, expected a whole number of 1 to 4096"),
    ],
)
def test_cards_that_lie_are_refused(name, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        Card.from_json(corpus("card", name).decode())
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("&a [*a]", "leads back to itself"),
        ("[" * 60, "nested deeper than 50"),
        ("- " * 5000, "nested deeper than 50"),
        ("\n".join(" " * depth + "a:" for depth in range(300)), "nested deeper than 50"),
        ("2020-13-45", "no YAML: month must be in 1..12"),
        ("9" * 5000, "no YAML"),
        (corpus("yaml", "aliases-for-ten-billion-values").decode(), "aliases stand for more than"),
        ("a: 1\nb: {c: 1, d: 2, c: 3}", "key 'c' is there twice, the second time in line 2"),
    ],
    ids=range(9),
)
def test_yaml_that_lies_is_refused(text, message):
    with pytest.raises(TextFileError, match=message):
        parse_yaml(text)


def test_sound_yaml_and_json_are_read():
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: {d: 1.5, a: 2}\n1: 3\n'1': 4") == {
        "a": [1, 2], "b": [1, 2], "c": {"d": 1.5, "a": 2}, 1: 3, "1": 4
    }  # fmt: skip
    assert parse_yaml("") is None
    assert parse_json('{"a": [1, null]}') == {"a": [1, None]}


def test_giant_and_binary_texts_are_refused(tmp_path):
    giant, binary = tmp_path / "giant", tmp_path / "binary"
    giant.write_bytes(b" " * ((1 << 20) + 1))
    binary.write_bytes(b"ab\xff")
    with pytest.raises(TextFileError, match="larger than 1 MiB"):
        read_text(giant)
    with pytest.raises(TextFileError, match="at byte 2"):
        read_text(binary)


def test_the_command_line_gives_one_line_and_no_traceback(tmp_path):
    bag = tmp_path / "bag.mcap"
    bag.write_bytes(corpus("mcap", "chunk-size-of-exabytes"))
    weights = tmp_path / "x.safetensors"
    weights.write_bytes(b"\xff" * 100)
    weights.with_suffix(".json").write_bytes(corpus("card", "brackets-without-end"))
    config = tmp_path / "config.yaml"
    config.write_bytes(corpus("config", "aliases-for-ten-billion-values"))
    for module, *arguments in (
        ("sdt_ros.cli", "replay", str(bag)),
        ("sdt_ros.cli", "info", "--weights", str(weights)),
        ("sdt_distill.cli", "train", "--config", str(config), "--out", str(tmp_path / "run")),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=120, env=os.environ
        )
        assert ended.returncode not in (0, -6, -9, -11), ended
        assert "Traceback" not in ended.stderr, ended.stderr
        assert str(tmp_path) in ended.stderr, ended.stderr


def test_the_corpus_card_is_sound_but_for_what_it_lies_about():
    card = json.loads(corpus("card", "window-not-a-number").decode())
    card["window_ms"] = 50.0
    assert Card.from_json(json.dumps(card)).window_ms == 50.0

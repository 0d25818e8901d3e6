"""Banks of simulated samples: what is kept, going on after a stop, growing, sharing the work, and damage."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

import sdt_distill.datasets.bank as bank_module
from sdt_distill.cli import main
from sdt_distill.datasets import BankDataset, DatasetError, SampleConfig, detect, open_dataset, write_bank
from sdt_distill.datasets.bank_files import DEPTH_ERROR, decode_depth, encode_depth
from sdt_distill.datasets.simulated import SimulatedDataset
from sdt_distill.datasets.simulated_config import SimulatedConfig

ROOT = Path(__file__).parents[1]
TINY = {"camera": "32x24", "group": 4, "texture_block": 8, "texture_sets": 2, "window_ms": 10.0, "seed": 5}


def tiny(samples: int = 10, **changes) -> SimulatedConfig:
    return SimulatedConfig.from_dict({**TINY, "samples": samples, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A sound bank of 10 samples in shards of 4, 4 and 2; nothing is written to it."""
    folder = tmp_path_factory.mktemp("banks") / "train"
    summary = write_bank(folder, tiny(), shard=4)
    assert summary.finished and summary.written == summary.present == 10 and summary.samples_s > 0
    assert summary.bytes == sum(path.stat().st_size for path in folder.glob("shard-*/*.npy"))
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "bank"))


def same(a, b) -> None:
    np.testing.assert_array_equal(a.spikes, b.spikes)
    np.testing.assert_array_equal(a.frame, b.frame)
    np.testing.assert_array_equal(a.intrinsics, b.intrinsics)
    np.testing.assert_array_equal(np.isnan(a.depth), np.isnan(b.depth))
    np.testing.assert_allclose(a.depth, b.depth, rtol=DEPTH_ERROR)
    assert (a.t_end_us, a.stamp_ns, a.sequence, a.index) == (b.t_end_us, b.stamp_ns, b.sequence, b.index)
    assert (a.spikes.dtype, a.depth.dtype, a.frame.dtype) == (np.uint8, np.float32, np.uint8)


def test_depth_codes_keep_a_seven_thousandth():
    rng = np.random.default_rng(0)
    depth = np.exp(rng.uniform(np.log(0.0101), np.log(0.99e6), 100_000)).astype(np.float32)
    error = np.abs(decode_depth(encode_depth(depth)) / depth.astype(np.float64) - 1)
    assert 0.9 * DEPTH_ERROR < error.max() <= DEPTH_ERROR < 1e-3
    outside = np.array([np.nan, np.inf, -1, 0, 0.009, 1.1e6], np.float32)
    assert np.isnan(decode_depth(encode_depth(outside))).all()


def test_a_bank_gives_the_simulators_samples(made):
    dataset, source = BankDataset(made), SimulatedDataset(tiny())
    assert len(dataset) == 10 and dataset.sequences == source.sequences and dataset.split == "train"
    for kept, simulated in zip(dataset, source, strict=True):
        same(kept, simulated)
    same(dataset[-1], source[9])
    assert "10 samples of 32x24 px" in dataset.describe() and "split train, seed 5" in dataset.describe()
    assert dataset[0].frame.flags.writeable  # not a view of the file
    with pytest.raises(IndexError, match="sample 10 of 10"):
        dataset[10]


def test_families_splits_and_windows(made):
    dataset = BankDataset(made, split="train", families=["flying", "hallway"])
    assert [sample.index for sample in dataset] == [1, 3, 5, 7, 9]
    assert {sample.sequence for sample in dataset} == {"flying", "hallway"}
    with pytest.raises(ValueError, match="no samples of the family 'swimming'; there are driving"):
        BankDataset(made, families=["swimming"])
    with pytest.raises(DatasetError, match="of the split train, not test"):
        BankDataset(made, split="test")
    with pytest.raises(DatasetError, match="windows of 10 ms in 4 bins, not of 50 ms in 4"):
        BankDataset(made, config=SampleConfig())
    assert BankDataset(made, config=SampleConfig(10.0, 4, frames=False))[0].frame is None


def test_workers_of_a_data_loader_read_it(made):
    dataset = BankDataset(made)
    first = dataset[0]  # maps a shard before it is sent
    assert len(pickle.dumps(dataset)) < 20_000
    loader = DataLoader(dataset, batch_size=3, num_workers=2, collate_fn=list, multiprocessing_context="spawn")
    loaded = [sample for batch in loader for sample in batch]
    assert [sample.index for sample in loaded] == list(range(10))
    same(loaded[0], first)


def test_the_registry_knows_banks(made, tmp_path):
    assert detect(made) == detect(made.parent) == "simulation"
    assert isinstance(open_dataset(made), BankDataset)
    assert len(open_dataset(made.parent, "simulation", split="train")) == 10
    with pytest.raises(DatasetError, match="train"):
        open_dataset(made, split="validation")
    root = tmp_path / "both"
    shutil.copytree(made, root / "train")
    write_bank(root / "validation", tiny(4, split="validation"))
    assert len(open_dataset(root)) == 14
    assert len(open_dataset(root, split="validation")) == 4
    with pytest.raises(DatasetError, match="no bank of the split test"):
        open_dataset(root, split="test")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_bank_grows_and_keeps_what_is_there(copy):
    before = list(BankDataset(copy))
    kept = (copy / "shard-00001-4/spikes.npy").stat().st_mtime_ns
    summary = write_bank(copy, tiny(), 14, shard=4)
    assert summary.finished and summary.present == 14 and summary.written == 6  # the short last shard anew
    assert names(copy) == ["bank.json", *(f"shard-{k:05d}-{n}" for k, n in enumerate((4, 4, 4, 2)))]
    assert (copy / "shard-00001-4/spikes.npy").stat().st_mtime_ns == kept
    grown = BankDataset(copy)
    for old, new in zip(before, grown, strict=False):
        same(old, new)
    same(grown[13], SimulatedDataset(tiny(14))[13])
    again = write_bank(copy, tiny(), 6, shard=4)  # fewer: nothing to do, nothing lost
    assert again.written == 0 and again.samples_s == 0 and again.present == 14 and len(BankDataset(copy)) == 14


def test_a_killed_run_goes_on(tmp_path):
    out = tmp_path / "bank"
    arguments = ["data", "simulate", str(out), "--samples", "4000", "--camera", "32x24", "--window-ms", "10"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sdt_distill.cli", *arguments, "--shard", "8"], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("shard-*/shard.json"))) < 2 or not list(out.glob(".shard-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    assert detect(out) == "simulation"
    with pytest.raises(DatasetError, match=r"the bank is not finished: \d+ shard\(s\)"):
        BankDataset(out)
    total = 8 * (len(done) + 1)
    config = SimulatedConfig.from_dict({"camera": "32x24", "window_ms": 10.0, "texture_sets": 1000})
    summary = write_bank(out, config, total, shard=8)
    assert summary.finished and summary.written == 8
    assert not list(out.glob(".shard-*"))  # what the killed run left is gone
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in done.items())
    same(BankDataset(out)[total - 1], SimulatedDataset(dataclasses.replace(config, samples=total))[total - 1])


def test_parts_and_processes_share_the_work(made, tmp_path):
    out = tmp_path / "bank"
    first = write_bank(out, tiny(), shard=4, part=0, parts=2)
    assert not first.finished and first.written == 6 and names(out) == ["shard-00000-4", "shard-00002-2"]
    second = write_bank(out, tiny(), shard=4, part=1, parts=2)
    assert second.finished and second.written == 4
    together = write_bank(tmp_path / "together", tiny(), shard=4, workers=2)
    assert together.finished and together.written == 10
    manifests = [json.loads((folder / "bank.json").read_text()) for folder in (made, out, tmp_path / "together")]
    assert manifests[0] == manifests[1] == manifests[2]  # with the checksums of every file


def test_what_a_full_disk_left_is_removed_although_files_cannot_be_closed(tmp_path):
    writer = bank_module.ShardWriter(tmp_path, 0, 4, 4, (8, 8), "key")

    class Full:
        def close(self):
            raise OSError(28, "No space left on device")

    assert next(tmp_path.iterdir()).is_dir()
    writer._files = {name: Full() for name in writer._files}
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_folders_that_may_not_be_read_are_left_out(made, tmp_path, monkeypatch, caplog):
    """A disk of one's own has lost+found."""
    shutil.copytree(made, tmp_path / "bank")
    (tmp_path / "lost+found").mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "lost+found" and real(path, mode))
    assert detect(tmp_path) == "simulation"
    assert "lost+found may not be read and is left out" in caplog.text


def test_banks_of_one_split_are_named_where_another_is_wanted(made, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(made, tmp_path / name)
    with pytest.raises(DatasetError, match="one: train, two: train"):
        open_dataset(tmp_path, "simulation", split="test")


def test_other_settings_are_refused(copy):
    with pytest.raises(DatasetError, match="written with other settings"):
        write_bank(copy, tiny(seed=6), shard=4)
    with pytest.raises(DatasetError, match="written with other settings"):
        write_bank(copy, tiny(), shard=8)
    with pytest.raises(ValueError, match="multiple of 4, the samples made together: give"):
        write_bank(copy, tiny(), shard=6)
    with pytest.raises(ValueError, match="part=2"):
        write_bank(copy, tiny(), part=2, parts=2)


def test_a_full_disk_leaves_no_rest(tmp_path, monkeypatch):
    added = []

    def full(self, sample):
        added.append(sample)
        if len(added) > 6:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(bank_module.ShardWriter, "add", full)
    monkeypatch.setattr(bank_module.ShardWriter, "finish", bank_module.ShardWriter.discard)
    with pytest.raises(OSError, match="No space left"):
        write_bank(tmp_path / "bank", tiny(), shard=4)
    assert names(tmp_path / "bank") == []


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


DAMAGES = {
    "cut off": (lambda b: cut(b / "shard-00001-4/depth.npy"), "shard-00001-4/depth.npy: the file is cut off"),
    "missing": (lambda b: (b / "shard-00000-4/frame.npy").unlink(), "shard-00000-4/frame.npy: .* is missing"),
    "shard lost": (lambda b: shutil.rmtree(b / "shard-00002-2"), "shard-00002-2/spikes.npy: .* is missing"),
    "too long": (
        lambda b: (b / "shard-00000-4/spikes.npy").open("ab").write(b"x"),
        "shard-00000-4/spikes.npy: the file is too long",
    ),
    "no manifest": (lambda b: (b / "bank.json").unlink(), "not finished: 3 shard"),
    "manifest cut off": (lambda b: cut(b / "bank.json"), "bank.json: the manifest cannot be read"),
    "manifest of another": (lambda b: (b / "bank.json").write_text('{"format": "x"}'), "format 'x' version None"),
    "manifest without shards": (
        lambda b: (b / "bank.json").write_text('{"format": "sdt-bank", "version": 1}'),
        "the manifest is damaged",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_mended(copy, damage, capsys):
    change, message = DAMAGES[damage]
    change(copy)
    with pytest.raises(DatasetError, match=message) as raised:
        BankDataset(copy)
    assert str(copy) in str(raised.value) and "; " in str(raised.value)
    assert main(["data", "check", str(copy)]) in (1, 2)
    out = capsys.readouterr()
    assert re.search(message, out.out + out.err)
    # What the message says to do helps.
    found = re.search(r"shard-\d+-\d+", str(raised.value))
    if found:
        shutil.rmtree(copy / found.group(), ignore_errors=True)
    write_bank(copy, tiny(), shard=4)
    same(BankDataset(copy)[5], SimulatedDataset(tiny())[5])


def test_a_changed_byte_is_found_by_its_checksum(copy, capsys):
    path = copy / "shard-00001-4/spikes.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    BankDataset(copy)  # opening looks at sizes only
    assert main(["data", "check", str(copy)]) == 1
    out = capsys.readouterr().out
    assert out.count("shard-00001-4/spikes.npy: the file's checksum is wrong") == 1


def test_damage_after_opening_is_named(copy):
    dataset = BankDataset(copy)
    path = copy / "shard-00001-4/spikes.npy"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DatasetError, match=r"spikes.npy, index 6: the file cannot be read.*write the bank again"):
        dataset[6]
    np.save(copy / "shard-00002-2/depth.npy", np.zeros((2, 3, 4), np.uint16))
    with pytest.raises(DatasetError, match=r"depth.npy.*uint16 \[2, 3, 4\], not uint16 \[2, 24, 32\]"):
        dataset[9]


def test_the_command_writes_checks_and_draws(tmp_path, capsys):
    out, figures, picture = tmp_path / "bank", tmp_path / "new/bank.json", tmp_path / "bank.png"
    arguments = [
        "data",
        "simulate",
        str(out),
        "--samples",
        "8",
        "--camera",
        "32x24",
        "--window-ms",
        "10",
        "--bins",
        "2",
    ]
    assert main([*arguments, "--split", "test", "--randomise", "--json", str(figures)]) == 0
    assert len({sample.intrinsics[0, 0] for sample in BankDataset(out)}) == 8
    written = json.loads(figures.read_text())
    assert written["finished"] and written["present"] == 8 and written["config"]["split"] == "test"
    assert "8 samples" in capsys.readouterr().out
    assert main(["data", "check", str(out), "--picture", str(picture), "--json", str(figures)]) == 0
    report = json.loads(figures.read_text())
    assert report["sound"] and [sequence["read"] for sequence in report["sequences"]] == [2, 2, 2, 2]
    assert picture.stat().st_size > 1000
    assert main(["data", "check", str(out), "--bins", "4"]) == 2
    assert "windows of 10 ms in 2 bins" in capsys.readouterr().err
    arguments[2] = str(tmp_path / "steady")
    assert main([*arguments, "--range", "pace=1:1", "--range", "light=0.5:1", "--json", str(figures)]) == 0
    drawn = json.loads(figures.read_text())["config"]["randomisation"]
    assert (drawn["pace"], drawn["light"], drawn["tiling"]) == ([1, 1], [0.5, 1], [0.3, 2])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--camera", "100x10"], "shape of none"),
        (["--samples", "0"], "samples=0"),
        (["--part", "half"], "--part half is not K/N"),
        (["--part", "2/2"], "part=2"),
        (["--photographs", "nowhere"], "nowhere is no folder of photographs"),
        (["--device", "abacus"], "--device abacus: not usable"),
        (["--range", "speed=1:1"], "--range speed=1:1: unknown key 'speed'; known are field_of_view_deg"),
        (["--range", "pace=1"], "--range pace=1 is not KEY=LOW:HIGH"),
        (["--range", "pace=2:1"], "pace=(2.0, 1.0) must be a rising range"),
        (["--texture-block", "6"], "texture_block=6 must be a multiple of 8, the samples made together: give 8"),
        (["--json", "."], "--json . is a folder; name a file"),
        (["--split", "dev"], "known are train, validation, test"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, message, capsys):
    assert main(["data", "simulate", str(tmp_path / "bank"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bank").exists()

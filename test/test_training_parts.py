"""The parts of the engine, each alone."""

import argparse
import dataclasses
import errno
import json
import os
import re
import resource
import shutil
import signal
import types

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from training_runs import SMOKE, settings, smoke, write_banks

from sdt_distill.cli import main
from sdt_distill.datasets import DatasetError, Sample
from sdt_distill.datasets.simulated import SimulatedDataset
from sdt_distill.datasets.simulated_config import SimulatedConfig
from sdt_distill.kernels import use_fused_layers
from sdt_distill.losses import LossConfig
from sdt_distill.networks import load_network
from sdt_distill.training import (
    Augmentation,
    AugmentConfig,
    ConfigError,
    Geometry,
    Taps,
    clock,
    collate,
    engine,
    growing,
    load_config,
)
from sdt_distill.training.batch import Fit, make_item
from sdt_distill.training.cells import resize_nearest, resize_spikes
from sdt_distill.training.command import add_parser
from sdt_distill.training.config import DataConfig, OptimiserConfig, SourceConfig, save_config
from sdt_distill.training.data import (
    Mixture,
    Source,
    _share_samples,
    knows_sky,
    open_source,
    require_sky,
    spread_over,
    stream,
)
from sdt_distill.training.engine import Trainer, TrainingError
from sdt_distill.training.identity import identity_of, require_same_run
from sdt_distill.training.log import RunLog, read_log
from sdt_distill.training.optimise import (
    AveragedNetwork,
    learning_rate,
    make_optimiser,
    optimiser_tensors,
    restore_optimiser,
    set_learning_rate,
)
from sdt_distill.training.packed import NoRoomError, Shelf, Shelves, pack
from sdt_distill.training.resident import read_all, resident_stream
from sdt_distill.training.spike_noise import _chance
from sdt_distill.training.state import StateError, UnsavedError, load_state, save_state
from sdt_distill.training.taps import recompute_in_backward
from sdt_ros.network import CheckpointError, NetworkConfig, build_network, load_card, synthetic_events

TINY = NetworkConfig(embed_dim=16, depth=2, heads=2, mlp_ratio=2, head_widths=(8, 8, 8, 8, 8))


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    return write_banks(tmp_path_factory.mktemp("banks"), samples=8)


@pytest.fixture(scope="module")
def trained(banks, tmp_path_factory):
    """The banks, and the folder of a run of two steps on them."""
    folder = tmp_path_factory.mktemp("trained")
    Trainer(smoke(banks, "run.steps=2"), folder).run(progress=False)
    return banks, folder


def sample(height=24, width=32, index=0, frame=True):
    rng = np.random.default_rng(index)
    spikes = (rng.random((4, 2, height, width)) < 0.1).astype(np.uint8)
    depth = rng.uniform(1, 20, (height, width)).astype(np.float32)
    picture = rng.integers(0, 256, (height, width), dtype=np.uint8) if frame else None
    return Sample(spikes, depth, 0, 0, "s", index, picture)


def batch(count=4, height=24, width=32):
    return collate([make_item(sample(height, width, k), f"d/s/{k}", k, Fit()) for k in range(count)])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimiser.learning_rate=1", "unknown config key 'optimiser.learning_rate'; known here are lr, final_lr"),
        ("loss.deep=1", "unknown config key 'loss.deep'; known here are depth"),
        ("network.depht=1", "unknown network key 'depht'"),
        ("run.steps=many", "'run.steps' is 'many', expected int"),
        ("run.steps=0", "^command line: config key 'run.steps' is 0, expected 1 or more"),
        ("data.focal_px=0", "config key 'data.focal_px' is 0.0, expected above 0"),
        ("data.sources.0.weight=0", "config key 'data.sources.0.weight' is 0.0"),
        ("run.fused=off", "'run.fused' is False, expected str; YAML reads on, off"),
        ("run.precision=half", "'run.precision' is 'half'"),
        ("data.sources.3.path=x", "there is no '3'"),
        ("data.sources.0.wieght=2", "unknown config key 'data.sources.0.wieght'"),
        ("augment.drop=2", "augment key 'drop'"),
        ("loss.proxy=1", "teacher.kind is 'none'"),
        ("run.steps", "write key=value"),
    ],
)
def test_config_refuses(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config(SMOKE, [setting])


def test_every_config_is_sound_and_reads_back(tmp_path):
    for name in ("smoke", "tiny", "small", "sdt", "dsec_dino"):
        path = SMOKE.with_stem(name)
        config = load_config(path, ["optimiser.lr=1e-3"])
        assert config.optimiser.lr == 1e-3
        save_config(tmp_path / "config.yaml", config)
        assert load_config(tmp_path / "config.yaml") == config
        assert yaml.safe_load(path.read_text())["data"]


def test_command_line_exits_2_for_a_wrong_key(capsys):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["train", "--config", str(SMOKE), "run.stesp=3"])
    assert args.run(args) == 2
    assert "unknown config key 'run.stesp'" in capsys.readouterr().err


def test_spikes_fall_into_the_nodes_cells():
    spikes = torch.from_numpy(sample(13, 17).spikes)
    small = resize_spikes(spikes, (6, 9))
    expected = torch.zeros(4, 2, 6, 9, dtype=torch.uint8)
    for t, p, y, x in spikes.nonzero().tolist():
        expected[t, p, y * 6 // 13, x * 9 // 17] = 1
    assert torch.equal(small, expected)
    depth = torch.arange(16.0).view(1, 4, 4)
    assert torch.equal(resize_nearest(depth, (2, 2)), torch.tensor([[[5.0, 7], [13, 15]]]))


def test_batches_are_cropped_padded_and_refuse_two_sizes():
    items = [make_item(sample(20, 40), "a", 0, Fit(size=(24, 32))), make_item(sample(24, 32), "b", 1, Fit())]
    both = collate(items)
    assert both.spikes.shape == (2, 4, 2, 24, 32) and both.frame.shape == (2, 1, 24, 32)
    assert both.depth[0, 0, :2].isnan().all() and not both.depth[0, 0, 2:22].isnan().any()
    np.testing.assert_array_equal(both.spikes[0, :, :, 2:22].numpy(), sample(20, 40).spikes[..., 4:36])
    with pytest.raises(DatasetError, match=r"b has spikes .* a has .*data.size"):
        collate([make_item(sample(20, 40), "a", 0, Fit()), items[1]])


def test_sky_is_infinite_where_a_data_set_knows_it_and_padding_is_not_sky():
    seen = sample(20, 40)
    seen.depth[3, 7] = np.nan
    for sky, expected in ((True, np.inf), (False, np.nan)):
        depth = make_item(seen, "a", 0, Fit(size=(24, 32), sky=sky)).depth[0].numpy()
        np.testing.assert_equal(depth[5, 3], np.float32(expected))  # padded by 2, cropped by 4
        assert np.isnan(depth[:2]).all() and np.isfinite(depth[2:22]).sum() == 20 * 32 - 1


def test_who_made_the_scenes_knows_the_sky(banks):
    data = DataConfig()
    simulated = SourceConfig(kind="simulated", options={"camera": "43x32", "samples": 8})
    assert open_source(SourceConfig(path=banks / "train"), data, frames=False).fit.sky
    assert open_source(simulated, data, frames=False).fit.sky
    assert open_source(SourceConfig(path=banks), data, frames=False).fit.sky  # a folder of several
    assert not knows_sky(Numbers(3))
    other = SimulatedDataset(SimulatedConfig.from_dict({"camera": "43x32", "samples": 8}))
    other.source.config = dataclasses.replace(other.source.config, renderer="mujoco")  # leaves out what is far
    assert not knows_sky(other)
    with pytest.raises(ConfigError, match=r"'loss\.sky' has a weight, but"):
        require_sky(LossConfig(sky=1), [Source("a", Numbers(3), 1.0, Fit())])


def test_two_banks_of_a_folder_have_keys_of_their_own(banks):
    source = open_source(SourceConfig(path=banks), DataConfig(), frames=False)
    keys = [source.item(index, 0).key for index in range(len(source.data))]
    assert len(keys) == 16 and len(set(keys)) == 16


def test_equal_keys_are_equal_frames(banks):
    """What a teacher saw is kept under them."""
    data, options = DataConfig(), {"camera": "43x32", "samples": 8}
    names = []
    for scale, changed in [
        (1, {}),
        (0.5, {}),
        (1, {"family": "driving"}),
        (1, {"randomisation": True}),
        (1, {"seed": 7}),
    ]:
        config = SourceConfig(kind="simulated", scale=scale, options={**options, **changed})
        names.append(open_source(config, data, frames=False).name)
    for scale in (1, 0.5):
        names.append(open_source(SourceConfig(path=banks / "train", scale=scale), data, frames=False).name)
    assert len(set(names)) == len(names)
    more = SourceConfig(kind="simulated", scale=1, options={**options, "samples": 16})
    assert open_source(more, data, frames=False).name == names[0], "more of the same are the same frames"


def test_augmentation_depends_on_seed_and_number_alone():
    config = AugmentConfig(flip_vertical=0.5, crop=(16, 20), zoom=1.3, blocks=2, noise=0.05, jitter=0.3)
    whole, _ = Augmentation(config, 7)(batch())
    half = batch()
    parts = [collate([make_item(sample(index=k), f"d/s/{k}", k, Fit()) for k in pair]) for pair in ((0, 1), (2, 3))]
    split = [Augmentation(config, 7)(each)[0] for each in parts]
    assert torch.equal(whole.spikes, torch.cat([each.spikes for each in split]))
    assert torch.equal(whole.depth, torch.cat([each.depth for each in split]))
    other, _ = Augmentation(config, 8)(half)
    assert not torch.equal(whole.spikes, other.spikes)
    assert whole.spikes.dtype == torch.uint8 and whole.spikes.max() == 1 and whole.spikes.shape[-2:] == (16, 20)


def test_no_augmentation_changes_nothing():
    before = batch()
    after, geometry = Augmentation(AugmentConfig.none(), 0)(before)
    assert torch.equal(after.spikes, before.spikes) and torch.equal(after.depth, before.depth)
    features = torch.rand(4, 3, 5, 6)
    assert geometry.is_identity and geometry.apply(features) is features


@pytest.mark.parametrize("crop", [None, (16, 20)])
def test_geometry_moves_maps_as_the_batch(crop):
    config = AugmentConfig(
        flip_horizontal=0.5, flip_vertical=0.5, crop=crop, polarity_swap=0, drop=0, noise=0, jitter=0
    )
    before = batch(8)
    after, geometry = Augmentation(config, 3)(before)
    assert geometry.flips.any(0).all() and not geometry.flips.all(0).any()  # some of each are flipped, some not
    moved = geometry.apply(before.depth)  # a map of the batch's own resolution moves exactly
    torch.testing.assert_close(moved, after.depth, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(geometry.apply(before.depth, "nearest"), after.depth)


def test_zoom_keeps_depth_unless_asked():
    geometry = dict(flip_horizontal=0, polarity_swap=0, drop=0, noise=0, jitter=0, threshold=1, crop=(16, 20), zoom=1.5)
    kept, moved = Augmentation(AugmentConfig(**geometry), 1)(batch())
    assert len(set(moved.boxes[:, 2].tolist())) > 1
    assert set(kept.depth[0].flatten().tolist()) <= set(batch().depth[0].flatten().tolist())
    divided, _ = Augmentation(AugmentConfig(**geometry, zoom_depth=True), 1)(batch())
    ratio = kept.depth[0] / divided.depth[0]
    torch.testing.assert_close(ratio, ratio[0, 0, 0].expand_as(ratio))
    assert 16 / ratio[0, 0, 0] == pytest.approx(int(moved.boxes[0, 2]), abs=0.51)


def test_spike_augmentations_do_what_they_say():
    spikes = torch.from_numpy((np.random.default_rng(0).random((4, 2, 200, 200)) < 0.3).astype(np.uint8))
    whole = dataclasses.replace(batch(1), spikes=spikes[None], depth=torch.ones(1, 1, 200, 200), frame=None)
    off = dict(flip_horizontal=0, polarity_swap=0, drop=0, noise=0, jitter=0, threshold=1)

    def vary(**values):
        return Augmentation(AugmentConfig(**{**off, **values}), 5)(whole)[0].spikes[0]

    assert torch.equal(vary(polarity_swap=1), spikes.flip(1))
    thinner = vary(threshold=3)
    assert not (thinner & ~spikes).any() and thinner[:, 0].sum() != thinner[:, 1].sum()
    assert thinner.sum() < 0.95 * spikes.sum()
    assert (vary(noise=0.2) & spikes).equal(spikes) and vary(noise=0.2).sum() > spikes.sum()
    jittered = vary(jitter=1.0)
    assert not torch.equal(jittered, spikes)
    assert (jittered.sum(0) <= spikes.sum(0)).all()  # moved or lost, never made
    blocked = vary(blocks=3)
    assert not (blocked & ~spikes).any()


def test_cells_are_drawn_in_their_share_and_independently():
    seeds = torch.tensor([0, 1, 2, 2**31 - 1], dtype=torch.int32)
    share = torch.tensor([0.0, 0.01, 0.3, 1.0]).view(4, 1, 1)
    drawn = torch.stack([_chance(seeds, field, share, torch.Size((4, 300, 400))) for field in range(3)])
    rate = drawn.double().mean((2, 3))  # [field, sample]
    assert (rate[:, 0] == 0).all() and (rate[:, 3] == 1).all()
    sigma = (share.double() * (1 - share.double()) / 120_000).sqrt().view(4)
    assert ((rate - share.double().view(4)).abs() <= 4.5 * sigma).all()
    cells = torch.stack([_chance(seeds[:2], field, torch.tensor(0.5), torch.Size((2, 300, 400))) for field in range(3)])
    fields = cells.double().view(6, -1)
    correlation = torch.corrcoef(torch.cat([fields, fields.roll(1, 1)]))
    assert (correlation - torch.eye(12)).abs().max() < 5 / 120_000**0.5


class Numbers:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return sample(index=index)


def test_mixture_shows_each_sample_once_an_epoch_and_keeps_weights():
    sources = [Source("a", Numbers(30), 3.0, Fit()), Source("b", Numbers(7), 1.0, Fit(), in_order=True)]
    mixture = Mixture(sources, 4)
    places = [mixture.place(number) for number in range(2048)]
    of_a = [index for k, index in places if k == 0]
    of_b = [index for k, index in places if k == 1]
    assert len(of_a) == 1536
    assert all(sorted(of_a[first : first + 30]) == list(range(30)) for first in range(0, 1500, 30))
    assert of_a[:30] != of_a[30:60]
    assert of_b[:14] == [*range(7), *range(7)]
    again = Mixture(sources, 4)
    assert [again.place(n) for n in (2000, 3, 1100)] == [places[n] for n in (2000, 3, 1100)]


def test_sources_of_other_sizes_share_no_batch():
    wanted = (("a", 2.0, (24, 32)), ("b", 1.0, (20, 20)), ("c", 1.0, (24, 32)))
    sources = [Source(name, Numbers(300), weight, Fit(size=size)) for name, weight, size in wanted]
    mixture = Mixture(sources, 4, together=6)
    block = 1024 // 6 * 6
    places = [mixture.place(number) for number in range(2 * block)]
    batches = [{source for source, _ in places[first : first + 6]} for first in range(0, len(places), 6)]
    assert all(batch == {1} or 1 not in batch for batch in batches)
    assert {0, 2} in batches  # sources of one size are mixed
    shares = [sum(source == k for source, _ in places[:block]) / block for k in range(3)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.01)
    first_epoch = [index for source, index in places if source == 1][:300]
    assert sorted(first_epoch) == list(range(300))
    again = Mixture(sources, 4, together=6)
    assert [again.place(number) for number in range(100)] == places[:100]


@pytest.mark.parametrize("workers", [0, 2])
def test_resident_samples_are_those_of_the_stream(workers):
    sources = [Source("a", Numbers(70), 3.0, Fit()), Source("b", Numbers(5), 1.0, Fit(size=(21, 27)))]
    one_size = [dataclasses.replace(source, fit=Fit(size=(21, 27))) for source in sources]
    config = DataConfig(workers=workers)
    for kind, together in ((sources, 4), (one_size, 1)):
        mixture = Mixture(kind, 4, together)
        samples = read_all(kind, config, torch.device("cpu"), progress=False)
        read, kept = stream(mixture, DataConfig(), 4, 8, 8, pin=False), resident_stream(samples, mixture, 4, 8, 8)
        for _ in range(40):
            wanted, found = next(read), next(kept)
            assert torch.equal(found.spikes, wanted.spikes) and torch.equal(found.depth, wanted.depth)
            assert found.keys == wanted.keys and torch.equal(found.numbers, wanted.numbers) and found.frame is None
        read.close()


def test_resident_samples_refuse_what_they_cannot_keep(banks, tmp_path):
    class Mixed(Numbers):
        def __getitem__(self, index):
            return sample(24 + (index > 65), index=index)

    with pytest.raises(ConfigError, match=r"set data\.size"):
        read_all([Source("m", Mixed(70), 1.0, Fit())], DataConfig(), torch.device("cpu"), progress=False)
    with pytest.raises(ConfigError, match="keeps no frames, which the teacher needs"):
        smoke(banks, "data.resident=true", "loss.proxy=1", "teacher.kind=frame", f"teacher.weights={tmp_path}")


def made_while_training(**values):
    """Settings of a source of kind `simulated`."""
    options = {"camera": "davis346@64x48", "samples": 64, "texture_sets": 1, "group": 4, **values}
    return f"data.sources=[{{kind: simulated, scale: 1, options: {json.dumps(options)}}}]"


def test_samples_made_while_training_are_kept_and_drawn_from(banks, tmp_path):
    config = smoke(banks, made_while_training(samples=24), "data.resident=true", "data.workers=2", "run.steps=4")
    trainer = Trainer(config, tmp_path)
    batches = trainer._batches(config.run.batch, progress=False)
    made = trainer._growing
    assert made.wait(lambda: False, progress=False)
    while not made._ended:
        made.take_in()
    assert len(made) == 24
    seen = {key for _ in range(60) for key in next(batches).keys}
    assert len(seen) == 24
    source = trainer._sources[0]
    batch = next(batches)
    for k, key in enumerate(batch.keys):
        wanted = source.item(int(key.rpartition("/")[2]), 0)
        assert torch.equal(batch.spikes[k], wanted.spikes) and torch.equal(
            batch.depth[k].nan_to_num(), wanted.depth.nan_to_num()
        )
    made.close()
    assert not made._thread.is_alive()
    trainer._growing = None
    assert trainer.run(progress=False).finished
    words = load_card(tmp_path / "last.safetensors").training_data
    told = re.match(r"(\d+) samples made of simulation: 24 samples", words)
    assert told and config.run.batch <= int(told[1]) <= 24
    again = Trainer(config, tmp_path)
    assert again.run(progress=False).finished and again._growing is None  # nothing was made for nothing
    assert load_card(tmp_path / "last.safetensors").training_data == words


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (5, 2)])
def test_all_samples_are_made_once_by_any_number_of_workers(workers, weights, monkeypatch):
    options = {"camera": "davis346@64x48", "texture_sets": 1, "group": 4, "texture_block": 8}
    sources = [
        Source(str(k), SimulatedDataset(SimulatedConfig.from_dict({**options, "samples": 44})), weight, Fit())
        for k, weight in enumerate(weights)
    ]
    monkeypatch.setattr(Source, "item", lambda self, index, number: (self.name, index))
    monkeypatch.setattr(growing, "pack", list)
    made = []
    for worker in range(workers):
        info = argparse.Namespace(id=worker, num_workers=workers)
        monkeypatch.setattr(growing, "get_worker_info", lambda info=info: info)
        mine = [chunk for _, chunk in growing._Makers(sources)]
        made += [entry for chunk in mine for entry in chunk]
        for first, second in zip(mine[::2], mine[1::2], strict=False):  # groups of one block in a row share textures
            assert second[0][0] != first[0][0] or second[0][1] == first[-1][1] + 1 or first[0][1] == 40
    assert sorted(made) == sorted((str(k), index) for k in (0, 1) for index in range(44))


def test_a_full_device_ends_the_making_and_not_the_run(banks, tmp_path, monkeypatch, caplog):
    config = smoke(banks, made_while_training(samples=400), "data.resident=true", "data.workers=1", "run.steps=30")

    def put(self, chunk):
        if len(self) >= 16:
            raise NoRoomError("no room")
        usual(self, chunk)

    usual = Shelf.put
    monkeypatch.setattr(Shelf, "put", put)
    assert Trainer(config, tmp_path).run(progress=False).finished
    assert "no more samples are made, the 16 that there are go on" in caplog.text


def test_shelves_of_two_sizes_say_what_to_set():
    shelves = [Shelf(str(k), torch.device("cpu"), 4) for k in range(2)]
    for k, shelf in enumerate(shelves):
        shelf.put(pack([make_item(sample(24 + 8 * k, 32), f"s{k}", 0, Fit())]))
    with pytest.raises(ConfigError, match=r"s1 has spikes .* s0 has .* set data\.size"):
        Shelves(shelves).batch([(0, 0), (1, 0)], 0)


def test_decoders_are_watched_only_while_shares_are_taken():
    """A hook on them keeps compiled layers from the fast last step."""
    network = use_fused_layers(build_network(TINY)).train()
    taps = Taps(network)
    spikes = synthetic_events(4, 32, 32).float()
    network(spikes)
    assert "head.up1" in taps.alive and network.head.up1._forward_hooks
    taps.counts = False
    taps.clear()
    assert not network.head.up1._forward_hooks
    last = network(spikes).grad_fn
    while "Alias" in last.name() or "Slice" in last.name():
        last = last.next_functions[0][0]
    assert "_Finish" in last.name() and not taps.alive and not taps.rates


def test_small_shares_of_large_batches_are_kept_or_refused():
    sources = [Source(str(k), Numbers(30), w, Fit(size=(24 + 8 * k, 32))) for k, w in enumerate((16.0, 1.5))]
    mixture = Mixture(sources, 0, together=256)
    places = [mixture.place(number)[0] for number in range(64 * 256)]
    assert np.mean(places) == pytest.approx(1.5 / 17.5, abs=0.01)
    with pytest.raises(ConfigError, match="too small a share: of 64 batches none would have it"):
        Mixture([sources[0], dataclasses.replace(sources[1], weight=0.05)], 0, together=256)


def test_what_cannot_be_made_while_training_is_said(banks, tmp_path):
    with pytest.raises(ConfigError, match=r"need data\.workers"):
        Trainer(smoke(banks, made_while_training(), "data.resident=true"), tmp_path / "a").run(progress=False)
    config = smoke(banks, "data.resident=true", "data.workers=1")
    bank = SourceConfig(kind="simulation", path=banks / "train", scale=1)
    mixed = dataclasses.replace(config.data, sources=(*smoke(banks, made_while_training()).data.sources, bank))
    with pytest.raises(ConfigError, match="let all sources be of kind 'simulated', or none"):
        Trainer(dataclasses.replace(config, data=mixed), tmp_path / "b").run(progress=False)

    trainer = Trainer(smoke(banks, made_while_training(), "data.resident=true", "data.workers=1"), tmp_path / "c")

    class Broken(type(trainer._sources[0].data)):
        def __getitem__(self, index):
            raise ValueError("no such scene")

    trainer._sources[0].data.__class__ = Broken
    with pytest.raises(DatasetError, match=r"samples made while training: .*no such scene"):
        trainer.run(progress=False)


def test_a_run_can_be_stopped_while_it_waits_for_samples(banks, tmp_path):
    trainer = Trainer(smoke(banks, made_while_training(), "data.resident=true", "data.workers=1"), tmp_path)
    trainer.stop()
    outcome = trainer.run(progress=False)
    assert (outcome.step, outcome.finished) == (0, False) and not (tmp_path / "last.safetensors").exists()


def test_a_shelf_grows_beyond_its_room():
    items = [make_item(sample(index=k), f"s/{k}", k, Fit()) for k in range(13)]
    shelf = Shelf("s", torch.device("cpu"), 2)
    for first in range(0, 12, 4):
        shelf.put(pack(items[first : first + 4]))
    shelf.put(pack(items[12:]))
    assert len(shelf) == 13 and shelf.keys == [item.key for item in items]
    spikes, depth = shelf.take(np.array([12, 0, 5]))
    assert torch.equal(spikes, pack([items[12], items[0], items[5]]).spikes)
    assert torch.equal(depth[2], items[5].depth)


def test_a_run_by_the_clock_cools_down_and_ends(banks, tmp_path):
    config = smoke(banks, "run.minutes=0.05", "run.steps=100000", "run.log_every=1", "optimiser.warmup_steps=2")
    outcome = Trainer(config, tmp_path).run(progress=False)
    assert outcome.finished and 2 < outcome.step < 100_000 and outcome.scores is not None
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if line["kind"] == "train"]
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 0.3 * config.optimiser.lr
    again = Trainer(config, tmp_path)
    assert again.run(progress=False).finished and again.step == outcome.step


def test_a_run_on_resident_samples_has_the_same_losses(banks, tmp_path):
    losses = []
    for name in ("false", "true"):
        config = smoke(banks, f"data.resident={name}", "run.steps=6", "run.log_every=2", "data.validation=[]")
        Trainer(config, tmp_path / name).run(progress=False)
        lines = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if line.get("kind") == "train" or "loss" in line])
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_a_run_whose_decoder_gives_nothing_ends(banks, tmp_path):
    """Seen on a GPU: eight rectifiers died in the first hundred steps, and 8700 more changed one bias."""
    config = smoke(banks, "run.steps=12", "run.log_every=2", "run.save_every=100", "data.validation=[]")
    trainer = Trainer(config, tmp_path)
    with torch.no_grad():
        trainer.network.head.up1.lateral.bn.bias.fill_(-1e6)
    with pytest.raises(TrainingError, match=r"step 10: all outputs of head\.up1 are 0.*no state was saved yet.*lower"):
        trainer.run(progress=False)
    assert not (tmp_path / "state.safetensors").exists()


def test_kinds_that_take_turns_stay_balanced():
    mixture = Mixture([Source("a", Numbers(4 * 25 + 3), 1.0, Fit(), strata=4)], 1)
    epochs = [[mixture.place(103 * epoch + k)[1] for k in range(103)] for epoch in range(2)]
    for order in epochs:
        assert sorted(order) == list(range(103)) and order[100:] != order[:3] and min(order[100:]) == 100
        assert all({i % 4 for i in order[k : k + 4]} == {0, 1, 2, 3} for k in range(0, 100, 4))
        assert len({tuple(i % 4 for i in order[k : k + 4]) for k in range(0, 100, 4)}) > 3
    assert epochs[0] != epochs[1]


def test_some_of_the_held_out_samples_are_of_all_kinds():
    """Families take turns in a bank: a stride of two would see half of them."""
    sources = [Source("a", Numbers(400), 1.0, Fit()), Source("b", Numbers(100), 1.0, Fit())]
    chosen = spread_over(sources, 250)
    assert chosen == spread_over(sources, 250) == sorted(set(chosen)) and len(chosen) == 250
    assert sum(source == 1 for source, _ in chosen) == 50
    kinds = np.bincount([index % 4 for _, index in chosen], minlength=4)
    assert kinds.min() > 40
    assert len(spread_over(sources, 0)) == len(spread_over(sources, 500)) == 500


def test_learning_rate_and_decay():
    config = OptimiserConfig(lr=1.0, final_lr=0.1, warmup_steps=10, weight_decay=0.3)
    rates = [learning_rate(step, 110, config) for step in range(111)]
    assert rates[0] == 0.1 and rates[9] == 1 == rates[10] and rates[110] == pytest.approx(0.1)
    assert rates[60] == pytest.approx(0.55) and rates[10:] == sorted(rates[10:], reverse=True)
    late = dataclasses.replace(config, cooldown=0.2)
    held = [learning_rate(step, 110, late) for step in range(111)]
    assert held[:10] == rates[:10] and set(held[10:91]) == {1.0}  # the last 20 of 100 steps fall
    assert held[100] == pytest.approx(0.55) and held[110] == pytest.approx(0.1)
    network = build_network(TINY)
    decaying, others, slow, slow_bias = make_optimiser([network], config).param_groups
    plain = {id(p) for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert plain <= {id(p) for p in others["params"]} and decaying["weight_decay"] == slow["weight_decay"] == 0.3
    groups = [group["params"] for group in (decaying, others, slow, slow_bias)]
    assert sorted(id(p) for group in groups for p in group) == sorted(id(p) for p in network.parameters())
    head = network.head
    assert {id(p) for p in slow["params"]} == {
        id(head.up8.reduce.weight), id(head.up4.reduce.weight), id(head.up2.reduce.weight), id(head.up1.reduce.weight),
        id(head.depth.weight),
    }  # fmt: skip
    assert [id(p) for p in slow_bias["params"]] == [id(head.depth.bias)] and slow_bias["weight_decay"] == 0


@pytest.mark.parametrize("head", ["fusion", "linear"])
def test_the_decoder_learns_at_its_share_of_the_rate(head: str) -> None:
    network = build_network(dataclasses.replace(TINY, head=head))
    optimiser = make_optimiser([network], OptimiserConfig(lr=0.5, decoder_rate=0.01, weight_decay=0))
    set_learning_rate(optimiser, 0.2)  # as a schedule does; not that of the config
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for p in network.parameters():
        p.grad = torch.ones_like(p)  # AdamW's first step is the rate, whatever the gradient's size
    optimiser.step()
    moved = {name: float((p.detach() - before[name]).abs().mean()) for name, p in network.named_parameters()}
    slow = {name for name, by in moved.items() if by == pytest.approx(0.002, rel=1e-3)}
    assert slow == {name for name in moved if name.startswith("head.depth.") or name.endswith(".reduce.weight")}
    assert all(moved[name] == pytest.approx(0.2, rel=1e-3) for name in moved.keys() - slow)


def test_average_follows_weights_and_statistics():
    network = build_network(TINY)
    average = AveragedNetwork(network, 0.5)
    first = average.network.stem.position.conv.weight.clone()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(1)
    average.update(network, 100)
    torch.testing.assert_close(average.network.stem.position.conv.weight, first + 0.5)
    torch.testing.assert_close(
        average.network.stem.position.bn.running_mean, network.stem.position.bn.running_mean - 0.5
    )


def test_recomputing_changes_no_gradient_statistic_or_rate():
    spikes = synthetic_events(4, 48, 64)
    found = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        network = build_network(TINY)
        taps = Taps(network, ["blocks.1"])
        if recomputes:
            recompute_in_backward(network, taps)
        depth = network(spikes)
        rates = {name: rate.item() for name, rate in taps.rates.items()}
        (depth.square().mean() + taps.features["blocks.1"].square().mean() + sum(taps.rates.values())).backward()
        gradients = [p.grad for p in network.parameters()]
        found.append((gradients, network.state_dict(), rates, len(taps.rates)))
    (plain, saved, rates, _), (again, state, recomputed, _) = found
    for one, two in zip(plain, again, strict=True):
        torch.testing.assert_close(one, two)
    for name, tensor in saved.items():
        torch.testing.assert_close(state[name], tensor)
    assert recomputed == rates and "stem.neurons.0" in rates


def test_taps_name_what_is_there():
    network = build_network(TINY)
    taps = Taps(network, ["blocks.0"])
    assert taps.channels(network, 4) == {"blocks.0": 16} and network.training
    with pytest.raises(ValueError, match=r"no module 'blocks.9'.*blocks.1"):
        Taps(network, ["blocks.9"])


def test_state_is_old_or_new(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, {"a": torch.arange(3)}, {"step": 1})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))  # as a full disk: a part is written, then an error
        with pytest.raises(OSError) as failure:
            save_state(path, {"a": torch.zeros(10_000)}, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert failure.value.errno == errno.EFBIG
    tensors, values = load_state(path)
    assert values == {"step": 1} and torch.equal(tensors["a"], torch.arange(3))
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StateError, match="damaged"):
        load_state(path)


def test_full_disk_keeps_the_previous_state_and_says_so(banks, tmp_path, monkeypatch, caplog):
    trainer = Trainer(smoke(banks, "run.steps=6", "run.save_every=2", "data.validation=[]"), tmp_path)

    def full(path, tensors, values):
        if values["step"] == 2:
            save_state(path, tensors, values)
        else:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(engine, "save_state", full)
    with pytest.raises(UnsavedError, match=r"step 6 was not written.*No space left.*state of step 2 is kept"):
        trainer.run(progress=False)
    assert "state of step 4 was not written" in caplog.text and "state of step 2 is kept" in caplog.text
    assert load_state(tmp_path / "state.safetensors")[1]["step"] == 2


def test_a_full_disk_ends_tensorboard_and_not_the_run(tmp_path, monkeypatch, caplog):
    calls = []

    class Full:
        def add_scalar(self, *args):
            calls.append(args)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sdt_distill.training.log._open_board", lambda folder, step: Full())
    written = RunLog(tmp_path, 0)
    for step in (1, 2):
        written.write("train", step, {"loss": 1.0, "lr": 0.1})
    written.picture("examples", 2, np.zeros((4, 4, 3), np.uint8))
    written.close()
    assert len(calls) == 1 and "TensorBoard gets no more of this run" in caplog.text
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2]


def test_a_finished_run_begun_again_keeps_its_scores(banks, tmp_path):
    first = Trainer(smoke(banks, "run.steps=2"), tmp_path).run(progress=False)
    assert first.finished and first.scores is not None
    scores = load_card(tmp_path / "last.safetensors").scores
    assert scores["validation"]
    assert Trainer(smoke(banks, "run.steps=2"), tmp_path).run(progress=False).finished
    assert load_card(tmp_path / "last.safetensors").scores == scores


def test_a_run_of_two_sizes_goes_on_with_larger_batches(banks, tmp_path):
    small = f"data.sources=[{{kind: simulation, path: {banks / 'train'}, scale: 1}}, " \
        f"{{kind: simulation, path: {banks / 'train'}, scale: 1, size: [32, 48]}}]"  # fmt: skip
    settings = [small, "data.validation=[]", "augment.crop=null"]
    Trainer(smoke(banks, "run.steps=3", "run.batch=2", *settings), tmp_path).run(progress=False)
    # 6 samples are seen, no whole number of batches of 4: from 4 on they would be of two sizes.
    outcome = Trainer(smoke(banks, "run.steps=40", "run.batch=4", *settings), tmp_path).run(progress=False)
    assert outcome.step == 40


def test_dead_and_saturated_layers_are_named(banks, tmp_path, caplog):
    trainer = Trainer(smoke(banks, "run.steps=2", "run.save_every=1", "data.validation=[]"), tmp_path)
    with torch.no_grad():
        trainer.network.blocks[0].mlp.expand.bn.weight.zero_()
        trainer.network.blocks[0].mlp.expand.bn.bias.fill_(-5)
        trainer.network.blocks[1].mlp.expand.bn.bias.fill_(50)
    trainer.run(progress=False)
    assert "layer blocks.0.mlp.hidden_neurons is dead, it fires at 0.000 %" in caplog.text
    assert "layer blocks.1.mlp.hidden_neurons is saturated, it fires at 100.000 %" in caplog.text


def test_a_state_of_another_network_is_refused(banks, tmp_path):
    Trainer(smoke(banks, "run.steps=1", "data.validation=[]"), tmp_path).run(progress=False)
    with pytest.raises(StateError, match=r"another run: its network is .*Choose another --out"):
        Trainer(smoke(banks, "network.embed_dim=16"), tmp_path)


def test_a_state_of_an_earlier_version_lacks_keys_that_came_later(banks, tmp_path):
    Trainer(smoke(banks, "run.steps=2"), tmp_path).run(progress=False)
    tensors, values = load_state(tmp_path / "state.safetensors")
    del values["identity"]["loss"]["root"]
    del values["identity"]["network"]["surrogate_alpha"]
    save_state(tmp_path / "state.safetensors", tensors, values)
    assert Trainer(smoke(banks, "run.steps=3"), tmp_path).step == 2
    values["identity"]["loss"]["nonsense"] = 1
    save_state(tmp_path / "state.safetensors", tensors, values)
    with pytest.raises(StateError, match="another run: its loss is"):
        Trainer(smoke(banks, "run.steps=3"), tmp_path)
    del values["identity"]["loss"]["nonsense"]
    values["identity"]["network"]["nonsense"] = 1
    save_state(tmp_path / "state.safetensors", tensors, values)
    with pytest.raises(StateError, match="another run: its network is"):
        Trainer(smoke(banks, "run.steps=3"), tmp_path)


@pytest.mark.parametrize("setting", ["data.max_m=8", "data.min_m=1", "data.input_scale=0.5", "data.focal_px=60"])
def test_a_state_whose_weights_mean_something_else_is_refused(trained, tmp_path, setting):
    banks, run = trained
    folder = shutil.copytree(run, tmp_path / "run")
    key = setting.partition("=")[0]
    for steps in (1, 3):  # finished or not
        with pytest.raises(StateError, match=f"another run: its {key} is .*, the config's is .*Choose another --out"):
            Trainer(smoke(banks, f"run.steps={steps}", setting), folder)
    assert (folder / "config.yaml").read_bytes() == (run / "config.yaml").read_bytes()


def test_windows_belong_to_a_state_and_an_earlier_version_did_not_say_so(trained, tmp_path):
    banks, run = trained
    config = smoke(banks, "data.bins=3")
    own = identity_of(config, build_network(TINY))
    with pytest.raises(StateError, match=r"its data.bins is 4, the config's is 3"):
        require_same_run(run, {**own, "data.bins": 4}, config, build_network(TINY))
    with pytest.raises(StateError, match=r"its data.window_ms is 20.0, the config's is 50.0"):
        require_same_run(run, {**own, "data.window_ms": 20.0}, config, build_network(TINY))
    folder = shutil.copytree(run, tmp_path / "run")
    tensors, values = load_state(folder / "state.safetensors")
    old = {key: value for key, value in values["identity"].items() if not key.startswith("data.")}
    assert list(old) == ["network", "loss", "seed"]
    del values["shown"]
    save_state(folder / "state.safetensors", tensors, {**values, "identity": old})
    assert Trainer(smoke(banks, "run.steps=3"), folder).step == 2


def test_other_sources_and_batches_are_told_where_a_run_goes_on(trained, tmp_path, caplog):
    banks, run = trained
    folder = shutil.copytree(run, tmp_path / "run")
    Trainer(smoke(banks, "run.steps=3"), folder)
    assert "goes on with other" not in caplog.text
    other = shutil.copytree(banks / "train", tmp_path / "elsewhere")
    Trainer(smoke(banks, "run.steps=3", "run.batch=2", f"data.sources.0.path={other}"), folder)
    assert re.search(r"goes on with other data.sources: .*elsewhere.*, before .*train", caplog.text)
    assert "goes on with other samples of a step: 2, before 4" in caplog.text


@pytest.mark.parametrize("steps", [1, 2])
def test_a_finished_run_keeps_its_config_and_says_that_there_is_nothing_to_do(trained, tmp_path, capsys, steps):
    banks, run = trained
    folder = shutil.copytree(run, tmp_path / "run")
    asked = [*settings(banks), f"run.steps={steps}", "run.batch=2"]
    assert main(["train", "--config", str(SMOKE), "--out", str(folder), *asked]) == 0
    assert f"nothing to do: the run is at step 2, {steps} steps were asked for" in capsys.readouterr().out
    for name in ("config.yaml", "last.safetensors", "last.json"):
        assert (folder / name).read_bytes() == (run / name).read_bytes(), name


def test_validation_on_what_is_learnt_is_told(banks, tmp_path, caplog):
    Trainer(smoke(banks, "run.steps=1"), tmp_path)
    assert "held-out data" not in caplog.text
    Trainer(smoke(banks, f"data.validation.0.path={banks / 'train'}"), tmp_path)
    assert re.search(r"data.validation.0 \(train-.*has the samples of data.sources.0: its scores", caplog.text)
    caplog.clear()
    made = "{kind: simulated, split: %s, scale: 1, options: {camera: davis346@64x48, samples: %d, texture_sets: 1}}"
    for split, told in (("validation", False), ("train", True)):
        sources = [f"data.sources=[{made % ('train', 8)}]", f"data.validation=[{made % (split, 4)}]"]
        Trainer(smoke(banks, *sources), tmp_path)
        assert ("has the samples of data.sources.0" in caplog.text) == told


def test_recordings_are_shared_unless_their_splits_differ(tmp_path):
    def shared(one, other):
        recordings = [types.SimpleNamespace()] * 2
        first, second = (SourceConfig("dsec", tmp_path, split) for split in (one, other))
        return _share_samples(first, recordings[0], second, recordings[1])

    assert shared("train", "train") and shared(None, "train") and not shared("validation", "train")


def test_a_wrong_value_is_blamed_on_who_gave_it(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("optimiser: {lr: 0}")
    for given in ([], ["run.steps=3"]):
        with pytest.raises(ConfigError, match=f"^{file}: config key 'optimiser.lr' is 0.0, expected above 0"):
            load_config(file, given)
    with pytest.raises(ConfigError, match=r"^command line: config key 'optimiser.ema_decay' is 1.0"):
        load_config(file, ["optimiser.lr=1", "optimiser.ema_decay=1"])


def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    own = shutil.copy(SMOKE, tmp_path / "own.yaml")
    for path, why in ((tmp_path, "is a folder; name a file"), (tmp_path / "file/x.json", "file is a file, no folder"),
                      (own, "is the config, which it would overwrite")):  # fmt: skip
        assert main(["train", "--config", str(own), "--out", str(tmp_path / "run"), "--json", str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"sdt-distill train: --json {path}") and why in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_the_weights_of_another(banks, tmp_path):
    first = Trainer(smoke(banks, "run.steps=1"), tmp_path / "first")
    first.run(progress=False)
    start = tmp_path / "first/last.safetensors"
    second = Trainer(smoke(banks, "run.seed=5", "run.steps=1", f"run.start_from={start}"), tmp_path / "second")
    expected, _ = load_network(start)
    for name, value in expected.state_dict().items():
        assert torch.equal(second.network.state_dict()[name].float(), value.float()), name
    assert second.step == 0
    second.run(progress=False)
    told = load_card(tmp_path / "second/last.safetensors").training_data
    assert told.endswith(f"; before that {load_card(start).training_data} (1 steps)") and told.startswith(
        "simulation: "
    )
    with pytest.raises(CheckpointError, match="name a checkpoint of the same network"):
        Trainer(smoke(banks, "network.embed_dim=16", f"run.start_from={start}"), tmp_path / "third")
    with pytest.raises(CheckpointError, match="name a checkpoint of the same network"):  # found by its name, but larger
        Trainer(smoke(banks, "run.start_from=sdt_tiny"), tmp_path / "fourth")


@pytest.mark.parametrize("head", ["fusion", "linear"])
def test_weights_say_the_same_metres_in_another_depth_range(banks, tmp_path, head):
    settings = ["data.validation=[]", f"network.head={head}"]
    Trainer(smoke(banks, "run.steps=1", *settings), tmp_path / "first").run(progress=False)
    start = tmp_path / "first/last.safetensors"
    wider = smoke(banks, f"run.start_from={start}", "data.min_m=0.1", "data.max_m=120", *settings)
    spikes = synthetic_events(wider.data.bins, 48, 64)
    before, card = load_network(start)
    after = Trainer(wider, tmp_path / "second").network.eval()
    with torch.no_grad():
        expected = card.depth_range.to_metres(before(spikes))
        metres = wider.data.depth_range.to_metres(after(spikes))
    within = (expected > card.depth_range.min_m * 1.001) & (expected < card.depth_range.max_m * 0.999)
    assert within.float().mean() > 0.95
    torch.testing.assert_close(metres[within], expected[within], rtol=1e-4, atol=0)


def test_all_depth_is_brought_to_one_focal_length():
    seen = dataclasses.replace(sample(24, 32), intrinsics=np.array([[20.0, 0, 16], [0, 45.0, 12], [0, 0, 1]]))
    plain = make_item(seen, "a", 0, Fit())
    told = make_item(seen, "a", 0, Fit(focal_px=60.0))
    assert torch.allclose(told.depth, plain.depth * (60 / 30))  # sqrt(20 * 45) px
    # At half the resolution the focal length is half as many pixels, cropping leaves it as it is.
    half = make_item(seen, "a", 0, Fit(0.5, (8, 8), focal_px=60.0))
    assert torch.allclose(half.depth, make_item(seen, "a", 0, Fit(0.5, (8, 8))).depth * 4, equal_nan=True)
    with pytest.raises(DatasetError, match=r"s/0: the camera's focal length is not known.*data\.focal_px"):
        make_item(sample(), "s/0", 0, Fit(focal_px=60.0))


@pytest.mark.parametrize(
    "settings, message",
    [(["augment.zoom=1.5"], "set augment.zoom_depth"), (["data.focal_px=0"], "focal_px.*above 0"),
     (["teacher={kind: frame, weights: x}", "loss.proxy=1"], "the teacher's metres are the camera's")],
)  # fmt: skip
def test_what_contradicts_one_focal_length_is_refused(banks, settings, message):
    with pytest.raises(ConfigError, match=message):
        smoke(banks, "data.focal_px=60", *settings)


def test_the_card_says_the_focal_length(banks, tmp_path):
    Trainer(smoke(banks, "run.steps=1", "data.focal_px=60"), tmp_path).run(progress=False)
    assert load_network(tmp_path / "last.safetensors")[1].focal_px == 60


def test_bad_sources_are_told(banks, tmp_path):
    with pytest.raises(ConfigError, match=r"'data.sources' is empty"):
        Trainer(smoke(banks, "data.sources=[]"), tmp_path)
    with pytest.raises(DatasetError, match="there is nothing at"):
        Trainer(smoke(banks, "data.sources.0.path=/nowhere"), tmp_path)
    with pytest.raises(ConfigError, match="of kind 'dsce'; known are dsec"):
        Trainer(smoke(banks, "data.sources.0.kind=dsce"), tmp_path)
    with pytest.raises(ValueError, match="is larger than the samples"):
        Trainer(smoke(banks, "augment.crop=[64, 64]", "data.validation=[]"), tmp_path).run(progress=False)


@pytest.mark.parametrize(
    "wrong, message",
    [("augment.crop=[64, 64]", "is larger than the samples"), ("network=e2depth_tiny", "run.checkpointing"),
     ("loss.sky=1", ""), ("loss.sky=-1", "'sky' is -1")],
)  # fmt: skip
def test_what_does_not_fit_ends_the_command_in_one_line(banks, tmp_path, wrong, message, capsys):
    fitting = [*settings(banks), "run.steps=1", "data.validation=[]", "loss.feature=0", "loss.similarity=0"]
    code = main(["train", "--config", str(SMOKE), "--out", str(tmp_path), *fitting, "run.checkpointing=true", wrong])
    error = capsys.readouterr().err
    assert code == (2 if message else 0), error
    assert message in error and "Traceback" not in error


def test_geometry_halves_coarse_maps_with_the_crop():
    geometry = Geometry((32, 32), (16, 16), torch.tensor([[16, 0, 16, 16]]), torch.tensor([[False, True]]))
    features = torch.arange(16.0).view(1, 1, 4, 4)
    assert geometry.apply(features).tolist() == [[[[9.0, 8.0], [13.0, 12.0]]]]


def test_a_clock_counts_laps_and_nothing_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    timed, endless = clock.RunClock(minutes=0.5), clock.RunClock(minutes=0)
    now[0] += 3
    timed.start_lap()  # what came before was no work
    now[0] += 12
    assert timed.lap == 12 and timed.part == pytest.approx(0.4) and timed.seconds == 0
    assert timed.end_lap() == 12 and timed.seconds == 12 and timed.lap == 0
    now[0] += 18
    assert timed.part == pytest.approx(1.0) and not timed.is_over  # of laps that ended
    timed.end_lap()
    assert timed.is_over
    assert endless.part == 0 and endless.end_lap() == 33 and not endless.is_over


def test_memory_of_an_optimiser_of_other_parameters_is_refused() -> None:
    network = build_network(TINY)
    grouped = make_optimiser([network], OptimiserConfig())
    plain = torch.optim.AdamW(network.parameters())  # the same parameters in another order, as states had them once
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    plain.step()
    with pytest.raises(StateError, match="fits no parameter: start over"):
        restore_optimiser(grouped, optimiser_tensors(plain))
    grouped.step()
    restore_optimiser(make_optimiser([network], OptimiserConfig()), optimiser_tensors(grouped))

"""Small training runs for tests: a bank of tiny samples, and the smoke config aimed at it."""

from pathlib import Path

from sdt_distill.datasets.bank import write_bank
from sdt_distill.datasets.simulated import SimulatedConfig
from sdt_distill.training.config import load_config

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "configs/smoke.yaml"


def write_banks(folder, samples=24):
    """A bank to train on and one held out, 64x48."""
    for split, count in (("train", samples), ("validation", 8)):
        values = {"camera": "davis346@64x48", "samples": count, "texture_sets": 1, "split": split}
        write_bank(folder / split, SimulatedConfig.from_dict(values), shard=8)
    return folder


def settings(banks, *more):
    """Settings that aim the smoke config at the banks."""
    sources = [
        f"data.{key}=[{{kind: simulation, path: {banks / split}, scale: 1}}]"
        for key, split in (("sources", "train"), ("validation", "validation"))
    ]
    return [*sources, "run.validate_every=0", *more]


def smoke(banks, *more):
    """The smoke config with settings."""
    return load_config(SMOKE, settings(banks, *more))

"""The splits that published scores are of, by the names of recordings."""

from __future__ import annotations

from collections.abc import Mapping

# 31 recordings to train and 10 to validate, all 41 of DSEC's training set, as Depth AnyEvent's authors count them. The
# names are those that public code lists for a 31/10 split of the same 41; whether Depth AnyEvent's 10 are the same 10
# could not be checked.
_DSEC_TRAIN = (
    "interlaken_00_c", "interlaken_00_d", "interlaken_00_e",
    "zurich_city_00_a", "zurich_city_00_b",
    "zurich_city_01_a", "zurich_city_01_b", "zurich_city_01_c", "zurich_city_01_d", "zurich_city_01_e",
    "zurich_city_01_f",
    "zurich_city_02_a", "zurich_city_02_b", "zurich_city_02_c", "zurich_city_02_d", "zurich_city_02_e",
    "zurich_city_03_a",
    "zurich_city_04_a", "zurich_city_04_b", "zurich_city_04_c", "zurich_city_04_d", "zurich_city_04_e",
    "zurich_city_04_f",
    "zurich_city_09_a", "zurich_city_09_b", "zurich_city_09_c", "zurich_city_09_e",
    "zurich_city_10_a",
    "zurich_city_11_a", "zurich_city_11_b", "zurich_city_11_c",
)  # fmt: skip
_DSEC_VALIDATION = (
    "interlaken_00_f", "interlaken_00_g", "thun_00_a",
    "zurich_city_05_a", "zurich_city_05_b", "zurich_city_06_a", "zurich_city_07_a", "zurich_city_08_a",
    "zurich_city_09_d", "zurich_city_10_b",
)  # fmt: skip

# E2Depth, 3DV 2020: trained on outdoor_day2, scored on the other drives, by day and by night apart.
_MVSEC = {
    "train": ("outdoor_day2",),
    "test": ("outdoor_day1", "outdoor_night1", "outdoor_night2", "outdoor_night3"),
    "test_day": ("outdoor_day1",),
    "test_night": ("outdoor_night1", "outdoor_night2", "outdoor_night3"),
}

# E2Depth, 3DV 2020: towns 1 to 5 to train, 6 and 7 to validate, 10 to test.
_DENSE = {
    "train": tuple(f"train_sequence_{k:02d}_town{k + 1:02d}" for k in range(5)),
    "validation": ("valid_sequence_00_town06", "valid_sequence_01_town07"),
    "test": ("test_sequence_00_town10",),
}

SPLITS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "dsec": {"train": _DSEC_TRAIN, "validation": _DSEC_VALIDATION},
    "mvsec": _MVSEC,
    "dense": _DENSE,
    "dense-spike": _DENSE,
    "bag": {},
    "simulation": {},  # its parts differ in seeds and textures, not in names: see `simulated_config.SPLIT_NAMES`
}
"""Data set: split: names of its recordings."""

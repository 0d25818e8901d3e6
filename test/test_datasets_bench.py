"""`sdt bench datasets`: it measures, and refuses arguments that make no sense."""

from __future__ import annotations

import json

import pytest

from sdt_ros.cli import main


def test_figures_are_of_both_sides(tmp_path, capsys):
    file = tmp_path / "new/bench.json"
    assert main(["bench", "datasets", "--rate", "0.2", "--seconds", "0.5", "--rounds", "1", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert figures["samples"] == 5 and figures["events_per_window"] == pytest.approx(10_000)
    assert figures["ratio"] == pytest.approx(figures["samples_s"] / figures["peer_samples_s"])
    assert min(figures[key] for key in figures if key.endswith("_s") or "_s_" in key) > 0
    assert "ratio" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--rate", "0"], ["--seconds", "0.1"]])
def test_senseless_arguments_are_refused(arguments, capsys):
    assert main(["bench", "datasets", *arguments]) == 2
    assert "--rounds from 1" in capsys.readouterr().err

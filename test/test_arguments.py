"""What several commands ask for in the same words is checked by the same rules."""

import pytest

from sdt_ros.cli import main


@pytest.mark.parametrize("command", ["network", "node", "simulation", "soak", "training"])
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("346", "'346' is no size; expected WIDTHxHEIGHT, such as 346x260"),
        ("346x", "is no size"),
        ("axb", "is no size"),
        ("64x48x2", "is no size"),
        ("-64x48", "expected"),
        ("0x48", "is no size"),
        ("9000x2", "at most 8192 px a side"),
    ],
)
def test_benchmarks_refuse_a_wrong_size(
    command: str, size: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", command, "--size", size])
    assert left.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("command", "least"), [("network", 16), ("training", 16), ("simulation", 8)])
def test_benchmarks_refuse_a_size_that_is_too_small(
    command: str, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", command, "--size", f"64x{least - 1}"])
    assert left.value.code == 2
    assert f"64x{least - 1} is too small: at least {least} px a side" in capsys.readouterr().err

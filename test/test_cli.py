"""The command `sdt`: quick help, exit codes, and nothing imported that a command does not need."""

from __future__ import annotations

import signal
import subprocess
import sys
import types

import pytest

from sdt_ros import cli
from sdt_ros.arguments import checkpoint_files, wrong_outputs

IMPORTED = """
import sys
from sdt_ros.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code
heavy = {"torch", "rclpy", "numba", "numpy"}
print("exit", code, "imported", sorted(heavy & sys.modules.keys()))
"""


def sdt(*arguments):
    return subprocess.run([sys.executable, "-m", "sdt_ros.cli", *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture
def command(monkeypatch):
    """A command `try` whose work is given."""

    def make(run):
        module = types.ModuleType("sdt_tried")

        def add_parser(subparsers):
            parser = subparsers.add_parser("try")
            parser.add_argument("--number", type=int, default=0)
            parser.add_argument("settings", nargs="*")
            parser.set_defaults(run=run)

        module.add_parser = add_parser
        monkeypatch.setitem(sys.modules, "sdt_tried", module)
        monkeypatch.setitem(cli.COMMANDS, "try", ("sdt_tried", "a command of this test"))

    return make


def test_help_lists_all_commands_and_imports_none():
    ended = subprocess.run([sys.executable, "-c", IMPORTED, "--help"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("exit 0 imported []\n")
    for name, (_, text) in cli.COMMANDS.items():
        assert any(line.split() == [name, *text.split()] for line in ended.stdout.splitlines()), name


def test_help_of_bench_names_its_benchmarks_without_torch_or_ros():
    ended = subprocess.run([sys.executable, "-c", IMPORTED, "bench", "-h"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "events" in ended.stdout
    _, _, imported = ended.stdout.rpartition("imported")
    assert "torch" not in imported
    assert "rclpy" not in imported


def test_only_the_called_command_is_imported(command, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "absent", ("sdt_ros.no_such_module", "cannot be imported"))
    command(lambda args: args.number)
    assert cli.main(["try"]) == 0
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        cli.main(["absent"])


@pytest.mark.parametrize(
    "arguments", [["fly"], [], ["--fast"], ["bench"], ["bench", "nothing"], ["bench", "events", "-x"]]
)
def test_wrong_arguments_exit_with_2_and_say_why(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: sdt")
    told = {"": "COMMAND", "--fast": "COMMAND", "bench": "BENCHMARK"}
    wrong = arguments[-1] if arguments else ""
    assert told.get(wrong, wrong) in error.rpartition("error:")[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--minutes", "nan"), "--minutes is nan, expected a finite number above 0"),
        (("--pause", "-1"), "--pause is -1, expected a finite number of at least 0"),
        (("--pause", "inf"), "--pause is inf"),
    ],
)
def test_a_soak_of_no_length_is_one_line(options, message, capsys):
    assert cli.main(["bench", "soak", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_outputs_that_cannot_be_written_are_told_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    assert wrong_outputs({"--json": tmp_path / "new" / "a", "--log": None}, {"--save": tmp_path / "new"}) == ""
    assert wrong_outputs({"--json": tmp_path / "file"}) == "", "a file is replaced"
    below = tmp_path / "file" / "a" / "b"
    for wrong in (wrong_outputs({"--json": below}), wrong_outputs({}, {"--json": below})):
        assert wrong == f"--json {below}: {tmp_path / 'file'} is a file, no folder; name another"
    kept = checkpoint_files(tmp_path / "w.safetensors")
    assert "is the card of the weights" in wrong_outputs({"--json": tmp_path / "w.json"}, kept=kept)
    assert "File name too long" in wrong_outputs({"--json": tmp_path / ("x" * 300)})


def test_an_unknown_command_names_the_known_ones():
    ended = sdt("fly")
    assert ended.returncode == 2
    assert "'fly'" in ended.stderr
    assert all(name in ended.stderr for name in cli.COMMANDS)
    assert "Traceback" not in ended.stderr


def test_the_commands_exit_code_is_the_programs(command):
    command(lambda args: args.number)
    assert cli.main(["try", "--number", "5"]) == 5


def test_settings_may_stand_before_and_behind_options(command, capsys):
    seen = []
    command(lambda args: seen.append((args.number, args.settings)) or 0)
    assert cli.main(["try", "a=1", "--number", "5", "b=2", "c=3"]) == 0
    assert seen == [(5, ["a=1", "b=2", "c=3"])]
    for wrong in ("b", "--b=2"):
        with pytest.raises(SystemExit) as ended:
            cli.main(["try", "a=1", "--number", "5", wrong])
        assert ended.value.code == 2
        assert f"unrecognized arguments: {wrong}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["node", "demo"])
def test_without_ros_a_command_says_what_it_needs(command):
    hidden = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("rclpy", "diagnostic_msgs"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from sdt_ros.cli import main
sys.exit(main(sys.argv[1:]))
"""
    ended = subprocess.run([sys.executable, "-c", hidden, command], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"sdt {command}: needs ROS 2 (No module named") and "sdt_ros[ros]" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_interrupt_ends_quietly_with_130(command, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    command(interrupt)
    assert cli.main(["try"]) == 128 + signal.SIGINT == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_has_gone_is_no_error_worth_a_traceback():
    writes = """
import sys, types
from sdt_ros import cli

def write_much(args):
    for _ in range(100_000):
        print("a line of a long report")
    return 0

module = types.ModuleType("sdt_long")
module.add_parser = lambda subparsers: subparsers.add_parser("long").set_defaults(run=write_much)
sys.modules["sdt_long"] = module
cli.COMMANDS["long"] = ("sdt_long", "writes much")
sys.exit(cli.main(["long"]))
"""
    writer = subprocess.Popen([sys.executable, "-c", writes], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "a line of a long report\n"
    writer.stdout.close()
    assert writer.stderr.read() == ""
    assert writer.wait(timeout=60) == 128 + signal.SIGPIPE

"""Fuzzing that follows the covered code, with atheris: `python test/fuzz/guided.py calibration --seconds 60`.

For readers written in Python; compiled decoders tell nothing of the ways that they take, `packets.py` is for them.
A find ends it with exit code 77 and leaves its input in --finds; `--replay FILE` runs one input without atheris.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

FUZZ = Path(__file__).parent
sys.path.insert(0, str(FUZZ))
# Not `sdt_ros.events`: numba cannot compile code that reports where it goes.
_READERS = ("bags", "calibration", "network", "text_files")
_OTHERS = ("sdt_distill.training.config", "sdt_distill.training.tree", "rosbags", "yaml", "json", "targets")
_INSTRUMENTED = [*(f"sdt_ros.{name}" for name in _READERS), *_OTHERS]


def main() -> int:
    """Fuzz one target; 0 when the time is over and nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", help="see TARGETS in targets.py; `list` prints them")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--finds", type=Path, default=Path("out/fuzz"), help="folder for the inputs of finds")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run this input only")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if args.replay or args.target == "list":
        from targets import TARGETS

        if args.target == "list":
            print("\n".join(TARGETS))
        else:
            print(TARGETS[args.target](args.replay.read_bytes()))
        return 0
    try:
        import atheris
    except ImportError:
        parser.error("atheris is not installed: pip install -e '.[fuzz]'")
    import sdt_ros.events  # noqa: F401 - before the others, so that it stays as it is

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from targets import TARGETS
    if args.target not in TARGETS:
        parser.error(f"unknown target {args.target!r}; known are {', '.join(TARGETS)}")
    args.finds.mkdir(parents=True, exist_ok=True)
    target = TARGETS[args.target]
    # What the fuzzer learns goes to the first folder, the committed corpus is only read.
    learnt = args.finds / f"learnt-{args.target}"
    learnt.mkdir(exist_ok=True)
    options = [f"-max_total_time={args.seconds}", f"-seed={args.seed}", "-rss_limit_mb=3000", "-timeout=20",
               "-max_len=8192", f"-artifact_prefix={args.finds}/{args.target}-"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(learnt), str(FUZZ / "corpus" / args.target)], target)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())

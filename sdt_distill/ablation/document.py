"""The page that holds all ablations: each command rewrites its own section and leaves the rest alone."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HEAD = """# Ablations

Each section is written by the command that it shows (`--doc`). All arms of a question have the same data, steps and
seeds. Figures are means over seeds ± standard deviation, of the last weights, on held-out data. Energy is counted from
firing rates measured there, by operations alone; `sdt_ros/network/energy.py` says how.
"""


def section(
    args: argparse.Namespace, title: str, fairness: str, summary: Mapping[str, Any], tables: str, picture: str
) -> str:
    """The text of a question's section."""
    first = next(iter(summary["arms"].values()))
    words = ["sdt-distill", "ablate", args.question, "--config", str(args.config)]
    words += ["--steps", str(args.steps)] if args.steps else []
    words += ["--seeds", str(args.seeds), "--samples", str(args.samples), "--out", str(args.out), *args.settings]
    command = " ".join(shlex.quote(word) for word in words)
    counts = {len(arm["seeds"]) for arm in summary["arms"].values()}
    unfinished = "" if counts == {args.seeds} else "\n**Not finished: some trials are left or failed.**\n"
    return f"""## {args.question.capitalize()}: {title[0].lower()}{title[1:]}

{fairness}

```bash
{command}
```

{first["steps"]} steps, {first["samples"]} samples each; scored on {summary["frames"]} held-out frames.
{unfinished}
{tables}
![Error against energy]({picture})
"""


def put_section(path: Path, name: str, text: str) -> None:
    """Write a section between its marks in a Markdown page, or at its end where there is none yet.

    Raises:
        ValueError: the page has the opening mark without the closing one.
    """
    begin, end = f"<!-- ablate {name} -->", f"<!-- end of {name} -->"
    page = path.read_text(encoding="utf-8") if path.is_file() else _HEAD
    block = f"{begin}\n{text.rstrip()}\n{end}"
    if begin in page:
        before, _, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not closed:
            raise ValueError(f"{path}: {begin} is not closed by {end}; repair the page")
        page = before + block + after
    else:
        page = f"{page.rstrip()}\n\n{block}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")

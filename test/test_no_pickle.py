"""Nothing in the packages can run what a file holds: no pickle, no eval, no unsafe loader, found in the syntax tree."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("sdt_ros", "sdt_distill", "launch", "scripts")
FILES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
SOURCES = sorted(path for path in FILES if path.suffix == ".py" or path.name.endswith("_node"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BUILT_IN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
UNSAFE = {"torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "pandas.read_pickle"}
CALLS = BUILT_IN | UNSAFE | {f"yaml.{name}" for name in ("load", "load_all", "unsafe_load", "full_load")}


def forbidden(source):
    """What a source may not hold, each as (line, what)."""
    names, found = {}, []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for entry in node.names:
                names[entry.asname or entry.name.split(".")[0]] = (
                    entry.name if entry.asname else entry.name.split(".")[0]
                )
                if entry.name.split(".")[0] in MODULES:
                    found.append((node.lineno, f"import {entry.name}"))
        elif isinstance(node, ast.ImportFrom) and node.module:
            for entry in node.names:
                names[entry.asname or entry.name] = f"{node.module}.{entry.name}"
            if node.module.split(".")[0] in MODULES:
                found.append((node.lineno, f"from {node.module}"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            called = f"{names.get(first, first)}.{rest}".rstrip(".")
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            pickled = keywords.get("allow_pickle")
            if called in CALLS or (called == "numpy.load" and pickled is None):
                found.append((node.lineno, called))
            if pickled is not None and not (isinstance(pickled, ast.Constant) and pickled.value is False):
                found.append((node.lineno, "allow_pickle"))
            shell = keywords.get("shell")
            if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
                found.append((node.lineno, "shell"))
    return found


def test_there_are_sources():
    assert len(SOURCES) > 100


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_can_run_what_a_file_holds(path):
    assert forbidden(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", "import pickle"),
        ("from pickle import loads", "from pickle"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("from torch import load as read\nread('x')", "torch.load"),
        ("import numpy as np\nnp.load('x')", "numpy.load"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
        ("import yaml as y\ny.load('x', y.Loader)", "yaml.load"),
        ("eval('1')", "eval"),
        ("import subprocess\nsubprocess.run('x', shell=True)", "shell"),
    ],
)
def test_the_scan_finds_them(source, what):
    assert what in {found for _, found in forbidden(source)}


@pytest.mark.parametrize(
    "source", ["model.eval()", "import numpy as np\nnp.load('x', allow_pickle=False)", "re.compile('')"]
)
def test_the_scan_leaves_others_alone(source):
    assert forbidden(source) == []

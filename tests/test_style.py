"""Every Python file: lines that fit beside another window, functions that fit on a screen."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")])
LONGER = {("train.py", "fit"): 80}  # the training loop, with what its arguments mean


@pytest.mark.parametrize("path", FILES, ids=str)
def test_lines_and_functions_are_short(path):
    source = (ROOT / path).read_text(encoding="utf-8")
    assert [line for line in source.splitlines() if len(line) > 99] == []
    functions = [node for node in ast.walk(ast.parse(source))
                 if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert [node.name for node in functions  # decorators not counted
            if node.end_lineno - node.lineno >= LONGER.get((str(path), node.name), 60)] == []


def test_imports_run_one_way():
    """A script imports those before it, support/ none of them."""
    scripts = ["dataset", "model", "train", "fashion_mnist", "predict", "experiments"]
    checked = [path for path in FILES if path.parts[0] == "support" or str(path.parent) == "."]
    for path in checked:
        nodes = list(ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))))
        names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        names |= {alias.name for node in nodes if isinstance(node, ast.Import)
                  for alias in node.names}
        first = scripts.index(path.stem) if path.stem in scripts else 0
        assert not names & set(scripts[first:]), path
    assert len(checked) > 15

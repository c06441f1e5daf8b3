"""How readable the house is: characters a line, long lines, branches, the longest function and
module.

    python benchmarks/house.py [FOLDER ...]

A line counts if it is not blank. Branches are if, for, while, except, with, match cases, boolean
operators, conditional expressions and comprehension clauses; they are divided by the functions'
lines.
"""

import argparse
import ast
import json
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("parakeet_ft", "recipes", "data_prep")
BRANCHES = (
    ast.If,
    ast.For,
    ast.While,
    ast.ExceptHandler,
    ast.With,
    ast.match_case,
    ast.BoolOp,
    ast.IfExp,
    ast.comprehension,
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def figures(paths: list[Path]) -> dict[str, float | int | str]:
    """What the table in docs shows, for Python files."""
    lengths, functions, modules = [], {}, {}
    branches = 0
    for path in paths:
        text = path.read_text(encoding="utf-8")
        name = str(path.relative_to(ROOT))
        lengths += [len(line) for line in text.splitlines() if line.strip()]
        modules[name] = len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, FUNCTIONS):
                lines = node.end_lineno - node.lineno + 1
                functions[f"{name}:{node.lineno} {node.name}"] = lines
        branches += branches_in_functions(ast.parse(text))
    longest_function = max(functions, key=functions.get)
    longest_module = max(modules, key=modules.get)
    return {
        "modules": len(modules),
        "lines": sum(modules.values()),
        "mean_characters_a_line": round(statistics.mean(lengths), 1),
        "lines_over_100_columns": sum(length > 100 for length in lengths),
        "branches_per_line": round(branches / sum(functions.values()), 3),
        "median_function_lines": statistics.median(functions.values()),
        "functions_over_40_lines": sum(lines > 40 for lines in functions.values()),
        "longest_function": f"{longest_function} ({functions[longest_function]} lines)",
        "longest_module": f"{longest_module} ({modules[longest_module]} lines)",
    }


def branches_in_functions(tree: ast.Module) -> int:
    """Branches inside functions, each once, also where functions are nested."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, FUNCTIONS)
        for node in ast.walk(function)
        if isinstance(node, BRANCHES)
    }
    return len(inside)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="*", default=FOLDERS)
    found = {}
    for folder in parser.parse_args().folders:
        found[folder] = figures(sorted((ROOT / folder).rglob("*.py")))
        for name, value in found[folder].items():
            print(f"{folder:<14} {name:<26} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

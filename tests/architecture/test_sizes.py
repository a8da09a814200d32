"""One person can read the whole code in a day; these bounds keep it so."""

from __future__ import annotations

import ast

from tests.architecture.source import modules

MOST_LINES_OF_A_FILE = 350
MOST_LINES_OF_A_FUNCTION = 60
MOST_PARAMETERS = 6
FORBIDDEN_NAMES = {"utils", "helpers", "common"}
# Where any exception must be caught, because it becomes an answer, a message or the end of a child process.
BOUNDARIES = {
    "shared.messaging.connection",
    "services.worker.child",
    "services.worker.runner",
    "services.status.consumer.loops",
    "services.status.streams.background",
}


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    return [
        (module.name, node)
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_files_are_short() -> None:
    long = {module.name: n for module in modules() if (n := module.text.count("\n")) > MOST_LINES_OF_A_FILE}
    assert long == {}


def test_functions_are_short() -> None:
    sizes = {f"{name}:{node.name}": (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    assert {name: size for name, size in sizes.items() if size > MOST_LINES_OF_A_FUNCTION} == {}


def test_functions_take_few_parameters() -> None:
    def count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        return len([name for name in names if name not in {"self", "cls"}])

    over = {f"{name}:{node.name}" for name, node in functions() if count(node) > MOST_PARAMETERS}
    # The constructors of models repeat the published configuration files, whose names are not ours to choose.
    assert {name for name in over if not name.startswith("services.worker.backends.")} == set()


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    assert [module.name for module in modules() if module.path.stem in FORBIDDEN_NAMES] == []


def test_everything_is_caught_at_process_boundaries_only() -> None:
    broad = {
        module.name
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}))
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    }
    assert broad - BOUNDARIES == set()


def test_no_global_statement() -> None:
    found = [m.name for m in modules() for node in ast.walk(m.tree) if isinstance(node, ast.Global)]
    assert found == []

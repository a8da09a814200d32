"""The project's own source, parsed once for all architecture tests."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("shared", "services", "infra", "bench", "models")


@dataclass(frozen=True)
class Module:
    """One Python file of the product."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    def imports(self) -> frozenset[str]:
        """Dotted names of everything that is imported at run time, wherever in the file."""
        return _imports(self.tree)


@cache
def _imports(tree: ast.Module) -> frozenset[str]:
    return frozenset(name for node in _runtime_nodes(tree) for name in _names(node))


def _runtime_nodes(tree: ast.AST) -> list[ast.AST]:
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        found += [node, *_runtime_nodes(node)]
    return found


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


@cache
def modules() -> tuple[Module, ...]:
    """Every Python file of the product, tests apart."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found.append(Module(path, name, text, ast.parse(text)))
    return tuple(found)

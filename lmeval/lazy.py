"""Packages that import nothing before it is needed: a public name is imported when it is first asked for.

A package writes its public names as imports under `if TYPE_CHECKING:`, where type checkers see them and Python does not,
and calls `attach`. `import lmeval` then costs milliseconds, and PyTorch is imported by what computes with it.
"""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


def attach(package: str) -> None:
    """Make the names that a package imports under `if TYPE_CHECKING:` its attributes, each imported at its first use.

    Args:
        package: `__name__` of the package, whose `__init__.py` is running.
    """
    module: Any = sys.modules[package]
    vars(module)["_origins"] = _origins(module.__loader__.get_data(module.__file__))
    module.__class__ = _LazyPackage


def function(module: str, name: str) -> Callable[..., Any]:
    """A function that is imported when it is called: registries of such can be read before anything slow is imported.

    Args:
        module: The full name of its module.
        name: Its name there.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    return call


def _origins(source: bytes) -> dict[str, str]:
    """Name -> the module that `from module import name` reads it from, in the blocks under `if TYPE_CHECKING:`."""
    return {
        alias.name: statement.module
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }


class _LazyPackage(ModuleType):
    """A package with public names that are imported late."""

    _origins: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        if name not in self._origins:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        origin = self._origins[name]
        value = import_module(f"{origin}.{name}") if origin == self.__name__ else getattr(import_module(origin), name)
        vars(self)[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Python binds a submodule to its package after its import: `lmeval.perplexity` would then no longer be the function.
        if not (name in self._origins and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._origins})

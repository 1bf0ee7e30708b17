"""Types of lmeval that a documented signature names, though they are not public names themselves."""

import importlib
import inspect
import typing
from collections.abc import Iterator
from typing import Any


def mentioned_types(packages: list[str]) -> list[str]:
    """Full names of the classes, in order, with those that their own fields and methods name."""
    modules = [importlib.import_module(name) for name in packages]
    public = [getattr(module, name) for module in modules for name in _public_names(module)]
    seen: dict[str, None] = {}
    waiting = [obj for obj in public if callable(obj)]
    while waiting:
        for kind in _types_named_by(waiting.pop()):
            name = f"{kind.__module__}.{kind.__qualname__}"
            if kind not in public and name not in seen:
                seen[name] = None
                waiting.append(kind)
    return sorted(seen)


def _public_names(module: Any) -> list[str]:
    own = [name for name, obj in vars(module).items() if getattr(obj, "__module__", "") == module.__name__]
    return list(getattr(module, "__all__", [name for name in own if not name.startswith("_")]))


def _types_named_by(obj: Any) -> Iterator[type]:
    members = [member for name, member in vars(obj).items() if not name.startswith("_")] if inspect.isclass(obj) else []
    for part in [obj, *members]:
        part = part.fget if isinstance(part, property) else part
        try:
            hints = typing.get_type_hints(part)
        except (TypeError, NameError):  # no hints, or of names that are there for type checkers alone
            continue
        for hint in hints.values():
            yield from _classes_in(hint)


def _classes_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, list | tuple):
        parts: Any = hint
    else:
        parts = typing.get_args(hint)
    if inspect.isclass(hint) and not parts and hint.__module__.startswith("lmeval."):
        yield hint
    for part in parts:
        yield from _classes_in(part)

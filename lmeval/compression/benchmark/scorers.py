"""Programs of others that claim a probability for the next byte or token of a text, in the forms in which they may be given.

A scorer is a Python callable of one of three forms. The symbols that it predicts are bytes, unless it has a vocabulary.

    next     function(past) -> [ids]           the distribution of the symbol after `past`
    whole    function(symbols) -> [time, ids]  row t: the distribution of symbol t, given those before it alone
    steps    function() -> a generator         yields the distribution of the next symbol, and is sent the one that came

A distribution is an array of probabilities, one for each of the 256 bytes in their order. `past` and `symbols` are `bytes`.
Where the callable has the attribute `vocabulary`, a list with the bytes that each id stands for, the symbols are ids: a
distribution has an entry for each of them, the function is given arrays of ids, and its attribute `encode` is a function
that turns the bytes of a text into ids.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from lmeval.errors import InputError, ModelError, first_line
from lmeval.messages import nearest, shown

SUM_TOLERANCE = 1e-6
"""How far a distribution's sum may be from one. The sum of a softmax in float32 is off by less, and a sum that is off by so
much moves the code length by 1.4e-6 bits a symbol. What is forgiven is not credited: only ratios are coded."""
BYTES = tuple(bytes([byte]) for byte in range(256))

Form = Literal["next", "whole", "steps"]
Run = Generator[Any, int, None]
"""One reading of a text: yields what the scorer says of the next symbol, and is sent the symbol that came."""


class Scorer(NamedTuple):
    """A program that claims probabilities.

    Attributes:
        name: What tables call it, such as "module:function".
        function: A callable of one of the three forms.
        vocabulary: The bytes of each id; the single bytes where the symbols are bytes.
        encode: Bytes to ids; None where the symbols are bytes.
        tolerance: How far the sum of a distribution may be from one.
    """

    name: str
    function: Callable[..., Any]
    vocabulary: tuple[bytes, ...] = BYTES
    encode: Callable[[bytes], Any] | None = None
    tolerance: float = SUM_TOLERANCE


ScorerLike = Scorer | str | Callable[..., Any]


def as_scorer(scorer: ScorerLike) -> Scorer:
    """The scorer that a callable is, or that "module:function" names.

    Args:
        scorer: A scorer; a callable; or the name of one, whose module is looked for in the current folder, too.

    Returns:
        The scorer with the callable's vocabulary.

    Raises:
        InputError: There is no such module or function, the module cannot be imported, or the vocabulary cannot be used.
    """
    if isinstance(scorer, Scorer):
        return scorer
    function = _imported(scorer) if isinstance(scorer, str) else scorer
    name = scorer if isinstance(scorer, str) else _name_of(function)
    if not callable(function):
        raise InputError(f"the scorer {name} is no function, but of type {type(function).__name__}")
    vocabulary = getattr(function, "vocabulary", None)
    if vocabulary is None:
        return Scorer(name, function)
    encode = getattr(function, "encode", None)
    if not callable(encode):
        raise InputError(f"the scorer {name} has a vocabulary, so it needs 'encode', a function that turns bytes into ids")
    pieces = tuple(vocabulary) if isinstance(vocabulary, Sequence) else ()
    if len(pieces) < 2 or not all(isinstance(piece, bytes) for piece in pieces):
        raise InputError(f"the vocabulary of the scorer {name} must be a list with the bytes of each of two ids or more")
    return Scorer(name, function, pieces, encode)


def _imported(name: str) -> Any:
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise InputError(f"the scorer '{shown(name)}' is not of the form MODULE:FUNCTION")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module of others may raise anything
        absent = isinstance(error, ModuleNotFoundError) and error.name is not None and module_name.startswith(error.name)
        if absent:
            message = f"no module {module_name} in this folder or among Python's own: give the name of a file without .py"
        else:
            message = f"the module {module_name} cannot be imported: {type(error).__name__}: {first_line(error)}"
        raise InputError(message) from error
    if not hasattr(module, attribute):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"the module {module_name} has no '{shown(attribute)}'{nearest(attribute, names)}")
    return getattr(module, attribute)


def _name_of(function: Any) -> str:
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}:{kind.__qualname__}"


def source_of(scorer: Scorer) -> Path | None:
    """The file that defines a scorer; None where it was not read from a file."""
    function = scorer.function
    kind = function if hasattr(function, "__qualname__") else type(function)
    module = sys.modules.get(getattr(kind, "__module__", ""))
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


@contextmanager
def asking(where: str) -> Generator[None, None, None]:
    """Inside this block the scorer's own code runs: whatever it raises becomes a ModelError of one line."""
    try:
        yield
    except StopIteration as error:
        raise ModelError(f"ends {where}") from error
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"raises {type(error).__name__} {where}: {first_line(error)}") from error


def form_of(scorer: Scorer) -> Form:
    """The form of a scorer: from the number of its parameters, and the shape of what it says of a text of one symbol.

    Raises:
        ModelError: It takes two arguments or more, or its result is no array of one or two dimensions.
    """
    try:
        parameters = inspect.signature(scorer.function).parameters.values()
    except (TypeError, ValueError):  # a function written in C
        n_needed, n_taken = 1, 1
    else:
        named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        n_needed = sum(p.default is p.empty for p in named)
        n_taken = len(named) + any(p.kind == p.VAR_POSITIONAL for p in parameters)
    if not n_taken:
        return "steps"
    if n_needed > 1:
        raise ModelError(f"takes {n_needed} arguments: give a function of what came before, or one of none that yields")
    with asking("on a text of one symbol"):
        said = scorer.function(as_input(scorer, [0]))
    n_dimensions = numbers(said, "on a text of one symbol").ndim
    if n_dimensions not in (1, 2):
        raise ModelError(
            f"gives {n_dimensions} dimensions on a text of one symbol: one or two are needed, [ids] or [time, ids]"
        )
    return "next" if n_dimensions == 1 else "whole"


def start(scorer: Scorer, form: Form) -> Run:
    """Begin to read a text. A scorer of the form "whole" is given what came, and one more symbol that means nothing.

    Raises:
        ModelError: A scorer of the form "steps" gives no generator.
    """
    if form == "steps":
        with asking("at the start"):
            run = scorer.function()
        if not hasattr(run, "send"):
            raise ModelError(f"takes no argument and gives a {type(run).__name__}: a generator is needed, which yields")
        return run
    return _following(scorer) if form == "next" else _last_rows(scorer)


def _following(scorer: Scorer) -> Run:
    past: list[int] | bytearray = bytearray() if scorer.encode is None else []
    while True:
        past.append((yield scorer.function(as_input(scorer, past))))


def _last_rows(scorer: Scorer) -> Run:
    past: list[int] | bytearray = bytearray() if scorer.encode is None else []
    while True:
        past.append((yield whole_rows(scorer, [*past, 0])[-1]))


def whole_rows(scorer: Scorer, symbols: Sequence[int]) -> Float64[np.ndarray, "time ids"]:
    """What a scorer of the form "whole" says of a text."""
    where = f"on a text of {len(symbols):,} symbols"
    with asking(where):
        said = scorer.function(as_input(scorer, symbols))
    rows, needed = numbers(said, where), (len(symbols), len(scorer.vocabulary))
    if rows.shape != needed:
        raise ModelError(f"gives an array of shape {rows.shape} {where}: {needed} is needed")
    return rows


def as_input(scorer: Scorer, symbols: Sequence[int]) -> bytes | Int64[np.ndarray, " n"]:
    """Symbols as a scorer's function is given them."""
    return bytes(symbols) if scorer.encode is None else np.array(symbols, dtype=np.int64)


def numbers(said: Any, where: str) -> Float64[np.ndarray, "..."]:
    """What a scorer says, as an array. Raises ModelError for what is none."""
    try:
        return np.asarray(said, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"gives a {type(said).__name__} {where}, which is no array of numbers: {first_line(error)}"
        ) from error


def ids_of(scorer: Scorer, data: bytes) -> Int64[np.ndarray, " n"]:
    """The symbols of a text, which must spell its very bytes.

    Raises:
        ModelError: `encode` raises, gives what are no ids, or gives ids that spell another text.
    """
    if scorer.encode is None:
        return np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    with asking("while it encodes the text"):
        ids = np.asarray(scorer.encode(data))
    n_ids = len(scorer.vocabulary)
    if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0 or ids.max() >= n_ids:
        raise ModelError(f"encodes the text into what is no list of ids from 0 to {n_ids - 1:,}")
    spelt = spell(scorer, ids.tolist())
    if len(spelt) != len(data):
        raise ModelError(f"encodes the text into tokens of {len(spelt):,} bytes: the text has {len(data):,}")
    if spelt != data:
        first = next(i for i, (a, b) in enumerate(zip(spelt, data, strict=True)) if a != b)
        raise ModelError(f"encodes the text into tokens that spell another one from byte {first:,} on")
    return ids.astype(np.int64)


def spell(scorer: Scorer, ids: Sequence[int]) -> bytes:
    """The bytes that ids stand for, one after the other."""
    return b"".join(scorer.vocabulary[i] for i in ids)

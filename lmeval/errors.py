"""Every error that lmeval raises on purpose.

A message names the input, the limit it broke and the remedy, in one line. The command line prints that line and exits with
a non-zero status; a caller of the Python interface can catch `LmevalError`, or the branch it cares about.

    LmevalError
    ├── InputError            text or a task file that cannot be used
    │   ├── InputNotFound         no such file, folder, glob match or data set
    │   ├── EmptyInput            nothing to score
    │   ├── UndecodableText       bytes that are not UTF-8
    │   ├── TaskFileError         a task file with an unknown key or a wrong value
    │   └── MixedSpaces           numbers of different data spaces in one table
    ├── ModelError            a model or tokenizer that cannot be used
    │   ├── ModelNotFound         no such folder or hub id, or files missing in it
    │   ├── ContextTooLong        a window longer than the model takes
    │   ├── NotCausal             a network whose outputs depend on later tokens
    │   ├── VocabularyMismatch    a tokenizer that gives ids the network does not know
    │   ├── NonFiniteScore        log-probabilities that are NaN or infinite
    │   ├── NoCache               a network that cannot be read token by token with a cache
    │   ├── OutOfMemory           one single sequence does not fit on the device
    │   └── DensityError          a density whose shapes, values or parts cannot be used
    ├── ArchiveError          an archive that cannot be decoded
    │   ├── NotAnArchive          bytes that are no archive of ours, or of a version that we do not know
    │   ├── CorruptArchive        a checksum that does not match, a length that cannot be
    │   ├── ModelMismatch         another model or tokenizer than the one that encoded
    │   └── NumericalDrift        the model's numbers here differ from the encoder's by more than the archive tolerates
    ├── DeviceError           a device that this machine lacks
    ├── OutputError           a result that cannot be written where it was asked for
    └── WorkerError           another process of the same run failed
"""


class LmevalError(Exception):
    """Base of all errors that lmeval raises on purpose."""


class InputError(LmevalError):
    """Text or a task file that cannot be used."""


class InputNotFound(InputError):
    """No such file, folder, glob match or data set."""


class EmptyInput(InputError):
    """Nothing to score."""


class UndecodableText(InputError):
    """Bytes that are not UTF-8."""


class TaskFileError(InputError):
    """A task file with an unknown key or a wrong value."""


class MixedSpaces(InputError):
    """Numbers of different data spaces in one table."""


class ModelError(LmevalError):
    """A model or tokenizer that cannot be used."""


class ModelNotFound(ModelError):
    """No such folder or hub id, or files missing in it."""


class ContextTooLong(ModelError):
    """A window longer than the model takes."""


class NotCausal(ModelError):
    """A network whose outputs depend on later tokens."""


class VocabularyMismatch(ModelError):
    """A tokenizer that gives ids the network does not know."""


class NonFiniteScore(ModelError):
    """Log-probabilities that are NaN or infinite."""


class NoCache(ModelError):
    """A network that cannot be read token by token with a cache."""


class OutOfMemory(ModelError):
    """One single sequence does not fit on the device."""


class DensityError(ModelError):
    """A density whose shapes, values or parts cannot be used."""


class ArchiveError(LmevalError):
    """An archive that cannot be decoded."""


class NotAnArchive(ArchiveError):
    """Bytes that are no archive of ours, or of a version that we do not know."""


class CorruptArchive(ArchiveError):
    """A checksum that does not match, a length that cannot be."""


class ModelMismatch(ArchiveError):
    """Another model or tokenizer than the one that encoded."""


class NumericalDrift(ArchiveError):
    """The model's numbers here differ from the encoder's by more than the archive tolerates."""


class DeviceError(LmevalError):
    """A device that this machine lacks."""


class OutputError(LmevalError):
    """A result that cannot be written where it was asked for."""


class WorkerError(LmevalError):
    """Another process of the same run failed."""


def first_line(error: BaseException) -> str:
    r"""The first non-empty line of an error's message, for quoting it inside a one-line message of ours.

    >>> first_line(ValueError("no such file\n  try another"))
    'no such file'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

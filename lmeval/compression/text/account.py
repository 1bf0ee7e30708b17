"""What a compression did: blocks, bits, seconds."""

from dataclasses import dataclass

from lmeval.compression.container.frame import Block
from lmeval.compression.container.kinds import REGISTRY
from lmeval.compression.text.encode import BY_MODEL, CodeLength
from lmeval.compression.text.model_header import ModelSettings
from lmeval.compression.text.online_only import ONLINE

DECODED_TO_VERIFY = (*BY_MODEL, ONLINE)
"""Kinds of blocks that are decoded before they are written; general-purpose codecs are believed."""


@dataclass(frozen=True)
class Compression:
    """What a compression did. Bits of `length` sum over the model-coded blocks, adapted or not, with `model_bytes` of data
    in `n_tokens` tokens; `n_blocks` counts blocks by their kinds; `n_not_verified` those that a decoder here could not
    decode, which were then coded without the model. `adapt` is the level of the online models."""

    n_bytes: int
    n_archive_bytes: int
    n_header_bytes: int
    n_framing_bytes: int
    n_tokens: int
    model_bytes: int
    length: CodeLength
    n_blocks: dict[str, int]
    n_lanes: int
    n_not_verified: int
    settings: ModelSettings | None
    adapt: str
    survey_seconds: float
    encode_seconds: float
    verify_seconds: float
    verified: bool

    @property
    def bits_per_byte(self) -> float:
        """Bits of the whole archive for each byte of the input."""
        return 8 * self.n_archive_bytes / self.n_bytes if self.n_bytes else float("nan")

    @property
    def n_payload_bytes(self) -> int:
        """Bytes of the blocks' payloads: the archive without header and framing."""
        return self.n_archive_bytes - self.n_header_bytes - self.n_framing_bytes


@dataclass
class Tally:
    """What is counted while blocks are written. The header's size is 0 until it is known."""

    adapt: str
    survey_seconds: float
    settings: ModelSettings | None = None
    n_lanes: int = 0
    n_header_bytes: int = 0

    def __post_init__(self) -> None:
        self.encode_seconds = self.verify_seconds = 0.0
        self.lines: list[tuple[int, int]] = []
        self.n_blocks = dict.fromkeys(REGISTRY, 0)
        self.length = CodeLength(0.0, 0.0, 0.0, 0.0, 0.0)
        self.n_tokens = self.model_bytes = self.payload_bytes = self.n_not_verified = 0

    @property
    def n_written(self) -> int:
        """Bytes of the archive so far."""
        return self.n_header_bytes + sum(stored for stored, _ in self.lines)

    def add(self, line: tuple[int, int], block: Block, length: CodeLength | None) -> None:
        """A block that was written, with its line of the index; `length` for one that the model coded."""
        self.lines.append(line)
        self.n_blocks[block.kind] += 1
        self.payload_bytes += len(block.payload)
        if length is not None:
            self.length += length
            self.n_tokens += block.n_units
            self.model_bytes += block.n_bytes

    def finished(self, n_bytes: int, n_archive_bytes: int, *, verify: bool) -> Compression:
        """The account."""
        return Compression(
            n_bytes=n_bytes,
            n_archive_bytes=n_archive_bytes,
            n_header_bytes=self.n_header_bytes,
            n_framing_bytes=n_archive_bytes - self.n_header_bytes - self.payload_bytes,
            n_tokens=self.n_tokens,
            model_bytes=self.model_bytes,
            length=self.length,
            n_blocks=self.n_blocks,
            n_lanes=self.n_lanes,
            n_not_verified=self.n_not_verified,
            settings=self.settings,
            adapt=self.adapt,
            survey_seconds=self.survey_seconds,
            encode_seconds=self.encode_seconds,
            verify_seconds=self.verify_seconds,
            verified=verify and any(self.n_blocks[kind] for kind in DECODED_TO_VERIFY),
        )

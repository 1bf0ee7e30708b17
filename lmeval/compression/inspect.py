"""What archives say of themselves, without a model: JSON-ready."""

from typing import Any

from lmeval.compression.container import archive
from lmeval.compression.container.frame import Block
from lmeval.compression.container.kinds import kind_of
from lmeval.errors import CorruptArchive


def inspect(data: memoryview) -> list[dict[str, Any]]:
    """For each archive of a file: version, header, and every block with its place, size, kind and numbers.

    Raises NotAnArchive and CorruptArchive.
    """
    parts = archive.read_index(data)
    return [_describe(data, part) for part in parts]


def _describe(data: memoryview, part: archive.Part) -> dict[str, Any]:
    blocks = list(archive.read_blocks(data, part.blocks_begin, part.header))
    if len(blocks) != len(part.entries):
        raise CorruptArchive("the archive's index does not fit its blocks")
    n_payload = sum(len(block.payload) for block in blocks)
    meta = dict(part.header.meta)
    return {
        "format": "{}.{}".format(*part.header.version),
        **meta,
        "n_archive_bytes": part.stop - part.start,
        "n_header_bytes": part.blocks_begin - part.start,
        "n_framing_bytes": part.stop - part.blocks_begin - n_payload,
        "blocks": [_block(block, position) for block, position in zip(blocks, _positions(part), strict=True)],
    }


def _positions(part: archive.Part) -> list[int]:
    return [entry.position for entry in part.entries]


def _block(block: Block, position: int) -> dict[str, Any]:
    return {
        "position": position,
        "kind": block.kind,
        "offset": block.offset,
        "n_bytes": block.n_bytes,
        "payload_bytes": len(block.payload),
        "digest": block.digest.hex(),
        **kind_of(block.kind).describe(block),
    }

"""Turn files of packages into documents of training text: one function for each kind of file."""

import gzip
import html
import json
import random
import re
import struct
import subprocess
import textwrap
import zlib
from collections.abc import Iterator
from pathlib import Path

SPLIT_BYTES = 20_000


def read_text(path: Path) -> str:
    """Return the file's text, decompressed where it ends in .gz or .dz; "" where it is not UTF-8."""
    data = path.read_bytes()
    if path.suffix in {".gz", ".dz"}:
        data = gzip.decompress(data)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""


def as_is(path: Path) -> Iterator[str]:
    yield read_text(path)


def in_pieces(path: Path) -> Iterator[str]:
    """Yield a large text in pieces of about SPLIT_BYTES that end at empty lines."""
    yield from split(read_text(path))


def split(text: str) -> Iterator[str]:
    piece: list[str] = []
    size = 0
    for paragraph in re.split(r"\n\s*\n", text):
        piece.append(paragraph)
        size += len(paragraph)
        if size > SPLIT_BYTES:
            yield "\n\n".join(piece)
            piece, size = [], 0
    yield "\n\n".join(piece)


def without_tags(text: str) -> str:
    """Return the prose of an HTML or XML page, a line for each block."""
    text = re.sub(r"(?s).*<div id=\"DisplayArea\"", "<div", text, count=1) if "DisplayArea" in text else text
    text = re.sub(r"(?is)<(script|style|head|nav|info|footer|noscript)\b.*?</\1>|<!--.*?-->|<\?.*?\?>", " ", text)
    text = re.sub(r"(?i)</?(p|div|h\d|li|tr|title|item|section|td|dt|dd|br|pre|steps?|note)\b[^>]*>", "\n", text)
    text = html.unescape(re.sub(r"<[^>]*>", "", text))
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def prose_of_page(path: Path) -> Iterator[str]:
    yield from split(without_tags(read_text(path)))


def markup_page(path: Path) -> Iterator[str]:
    text = re.sub(r"(?is)<script\b.*?</script>", "", read_text(path))
    yield text[:40_000]


def prose_of_manual(path: Path) -> Iterator[str]:
    """Yield a manual page without its troff requests."""
    text = re.sub(r"(?m)^[.']\\\".*\n|^'\\\".*\n", "", read_text(path))
    text = re.sub(r"(?m)^\.(SH|SS|B|I|BR|BI|IR|RB|IB|TP|IP|RI|SM)\b *", "", text)
    text = re.sub(r"(?m)^\..*\n", "", text)
    yield re.sub(r"\\f(\(..|\[.*?\]|.)|\\&|\\%|\\c", "", text).replace("\\-", "-").replace('"', "")


def rendered_manual(path: Path) -> Iterator[str]:
    """Yield a manual page as a terminal shows it, 78 columns wide."""
    run = subprocess.run(
        ["nroff", "-c", "-man", "-rLL=78n"],
        input=read_text(path).encode(),
        capture_output=True,
        check=False,
    )
    yield re.sub(r".\x08", "", run.stdout.decode(errors="ignore"))


def strings_of_json(path: Path) -> Iterator[str]:
    """Yield the sentences (strings with a space in them) of a file of translations, one a line."""

    def strings(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for key, inner in value.items():
                if not str(key).startswith("@"):
                    yield from strings(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from strings(inner)

    try:
        lines = [line for line in strings(json.loads(read_text(path) or "{}")) if len(line) > 8 or not line.isascii()]
    except json.JSONDecodeError:
        return
    yield from split("\n".join(lines).replace("\n\n\n", "\n") + "\n")


def json_in_full(path: Path) -> Iterator[str]:
    """Yield a JSON file of translations with its letters written out instead of escapes."""
    yield json.dumps(json.loads(read_text(path) or "{}"), ensure_ascii=False, indent=2)[:60_000] + "\n"


def names_of_json(path: Path) -> Iterator[str]:
    """Yield a CLDR file's names, `key: name` a line, in its own language."""
    lines = re.findall(r'"([^"\\]+)": "([^"\\]+)"', read_text(path))
    yield "".join(f"{key}: {name}\n" for key, name in lines if not name.isascii() or " " in name)[:40_000]


def translations(path: Path) -> Iterator[str]:
    """Yield the translated strings of a GNU .mo catalogue."""
    data = path.read_bytes()
    _, _, n, _, at = struct.unpack("<5I", data[:20])
    spans = [struct.unpack("<2I", data[at + 8 * i : at + 8 * i + 8]) for i in range(n)]
    strings = [data[start : start + size].replace(b"\0", b"\n").decode(errors="ignore") for size, start in spans[1:]]
    yield "\n".join(strings) + "\n"


def fortunes(path: Path) -> Iterator[str]:
    yield from split(re.sub(r"\x1b\[[\d;]*m", "", read_text(path)).replace("\n%\n", "\n\n"))


def wordnet_glosses(path: Path) -> Iterator[str]:
    """Yield WordNet's synsets as a dictionary: the words, a dash, and the definition."""
    lines = []
    for line in read_text(path).splitlines():
        head, bar, gloss = line.partition(" | ")
        if bar:
            fields = head.split()
            words = [word.replace("_", " ") for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
            lines.append(f"{', '.join(words)} - {gloss.strip()}\n")
    random.Random(path.name).shuffle(lines)
    yield from split("\n".join(lines))


def foldoc_as_wiki(path: Path) -> Iterator[str]:
    """Yield a dictionary's entries as pages of a MediaWiki dump: cross-references are links, headwords bold."""
    rng = random.Random(path.name)
    for number, entry in enumerate(re.split(r"\n(?=\S)", read_text(path))):
        title, _, body = entry.partition("\n")
        if len(body) < 150 or len(title) > 60:
            continue
        text = re.sub(r"\n(?=\S)", "\n", re.sub(r"(?m)^ +", "", body)).strip()
        text = re.sub(r"\{+([^{}\n]+)\}+", r"[[\1]]", re.sub(r"(?<!\n)\n(?!\n)", " ", text))
        text = re.sub(r"(?i)" + re.escape(title), lambda m: f"'''{m[0]}'''", text, count=1)
        escaped = html.escape(text, quote=False).replace('"', "&quot;")  # as MediaWiki does: apostrophes stay
        day = f"200{rng.randint(2, 6)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        time = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
        yield (
            f"  <page>\n    <title>{html.escape(title)}</title>\n    <id>{number + 100}</id>\n    <revision>\n"
            f"      <id>{rng.randint(10**6, 10**7)}</id>\n      <timestamp>{day}T{time}Z</timestamp>\n      <contributor>\n"
            f"        <username>{rng.choice(NAMES)}</username>\n        <id>{rng.randint(100, 99999)}</id>\n"
            "      </contributor>\n"
            f'      <text xml:space="preserve">{escaped}\n\n[[Category:{rng.choice(TOPICS)}]]</text>\n'
            "    </revision>\n  </page>\n"
        )


NAMES = ["Lira", "Tobias W", "Quillon", "Marek77", "HelgaB", "OldOak", "Sanjay P", "Bot-One", "Pinecone", "Ada L"]
TOPICS = ["Computing", "Programming languages", "Networking", "Software", "Hardware", "Mathematics", "Jargon", "Standards"]


def sword_bible(path: Path) -> Iterator[str]:
    """Yield the books of a SWORD module: a zlib stream each, at the places of a .bzs file, OSIS mark-up inside."""
    data, spans = path.read_bytes(), path.with_suffix(".bzs").read_bytes()
    for offset, size, _ in struct.iter_unpack("<3I", spans):
        text = zlib.decompress(data[offset : offset + size]).decode(errors="ignore")
        text = re.sub(r"(?s)<note\b.*?</note>", "", text)
        text = re.sub(r"<(div|chapter|title|lg|p)\b[^>]*>", "\n\n", re.sub(r"</?(l|verse)\b[^>]*>", "\n", text))
        lines = (" ".join(line.split()) for line in html.unescape(re.sub(r"<[^>]*>", "", text)).split("\n"))
        yield from split(re.sub(r"\n{3,}", "\n\n", re.sub(r"(?<=\w[,;\w])\n(?=\w)", " ", "\n".join(lines))))


def r_novels(path: Path) -> Iterator[str]:
    """Yield the novels of an R package's lazy-load database: XDR vectors of lines, each novel one zlib stream.

    Pride and Prejudice is left out: the training text of before has it.
    """
    data = path.read_bytes()
    for start in (m.start() for m in re.finditer(rb"[\x78][\x01\x5e\x9c\xda]", data)):
        try:
            raw = zlib.decompressobj().decompress(data[start:])
        except zlib.error:
            continue
        if len(raw) > 100_000:
            lines = [
                raw[m.end() : m.end() + struct.unpack(">I", m[1])[0]] for m in re.finditer(rb"\0\x04\0\x09(....)", raw, re.S)
            ]
            text = b"\n".join(lines).decode(errors="ignore")
            if "PRIDE AND PREJUDICE" not in text[:200].upper():
                yield from split(text)


def wrapped(path: Path) -> Iterator[str]:
    """Yield a text whose paragraphs are single lines, with lines of at most 76 characters."""
    paragraphs = re.split(r"\n+", read_text(path))
    yield from split("\n\n".join(textwrap.fill(paragraph, 76) for paragraph in paragraphs if paragraph.strip()))


def raw_pieces(path: Path) -> Iterator[bytes]:
    """Yield up to three stretches of 30 kB of a binary file: its beginning, its middle and its end."""
    data = path.read_bytes()
    if len(data) < 100_000:
        yield data
    else:
        yield from (data[at : at + 30_000] for at in (0, len(data) // 2, len(data) - 30_000))

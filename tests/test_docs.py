"""The pages tell the truth: their Python runs, their commands are understood, their links lead somewhere."""

import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lmeval.cli import commands

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), ROOT / "tasks" / "README.md", *(p for p in ROOT.glob("docs/**/*.md") if "_build" not in p.parts)]
)
LAUNCHERS = re.compile(r"^(accelerate launch|torchrun [^#]*?) -m lmeval ")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """Contents of the page's fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def shown_commands(page: Path) -> Iterator[list[str]]:
    """Arguments of `lmeval` wherever a page shows how it is called."""
    for line in "".join(blocks(page, "sh")).splitlines():
        line = LAUNCHERS.sub("lmeval ", line)
        if line.startswith("lmeval "):
            yield shlex.split(line, comments=True)[1:]


@pytest.mark.slow  # imports torch, and compiles the online models where nobody has
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_on_a_page_gives_what_the_page_says(page: Path):
    examples = doctest.DocTestParser().get_doctest("\n\n".join(blocks(page, "python")), {}, name_of(page), str(page), 0)
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("page", [page for page in PAGES if list(shown_commands(page))], ids=name_of)
def test_commands_on_a_page_are_understood(page: Path):
    for name, *arguments in shown_commands(page):
        command = commands.get_command(click.Context(commands), name)
        assert command, f"there is no command {name}"
        command.make_context(
            name, arguments
        )  # raises for an option that does not exist, and for a value that it does not take


def test_links_lead_to_files_that_exist():
    broken = [
        f"{name_of(page)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_front_page_fits_on_a_screen_and_a_half():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(page.encode()) <= 8000
    for command in ("pip install lmeval", "scripts/demo", "scripts/test"):
        assert command in page

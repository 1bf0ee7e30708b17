"""The command line: arguments -> one call -> a table for people and JSON for machines. No arithmetic.

A command's module is imported when the command is asked for. `lmeval --help` reads the table below and nothing else.
"""

import sys
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import click

from lmeval import __version__, interrupts
from lmeval.errors import LmevalError, first_line
from lmeval.messages import nearest


class Listed(NamedTuple):
    """A command as `lmeval --help` lists it. `module` of this package has it as `NAME_command`."""

    module: str
    line: str


SECTIONS: dict[str, dict[str, Listed]] = {
    "Score": {
        "perplexity": Listed("perplexity", "Perplexity and bits per byte of a language model on text."),
        "run": Listed("tasks", "Score prompted tasks and texts through next-token probabilities."),
        "likelihood": Listed("likelihood", "Log-likelihoods of several models on the same images."),
    },
    "Files": {
        "compress": Listed("compression", "Compress a file with a language model, images with a density."),
        "decompress": Listed("compression", "Decompress an archive, whole or in part."),
        "inspect": Listed("compression", "Show what an archive says of itself; no model is loaded."),
        "benchmark": Listed("benchmark", "Compare language models with gzip, xz, zstd, ppmd and others."),
    },
    "Results": {
        "rescore": Listed("tasks", "Compute the scores of --records again, without the model."),
        "compare": Listed("tasks", "Compare two results on the same items, with paired intervals."),
    },
    "Start": {
        "demo": Listed("demo", "Score, compress and decode texts with the bundled models."),
        "images": Listed("images", "Write a set of images as a .npy file."),
    },
}
COMMANDS = {name: listed for section in SECTIONS.values() for name, listed in section.items()}


class _LazyCommands(click.Group):
    """The commands of COMMANDS, each imported when it is asked for, and listed in their sections."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the sections."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, from its module; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        with interrupts.leaving_at_once():
            module = import_module(f"lmeval.cli.{COMMANDS[cmd_name].module}")
        return getattr(module, f"{cmd_name}_command")

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments begin with. Raises UsageError, which names the nearest one, for an unknown one."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command '{args[0]}'{nearest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list a section, all of them in the same two columns."""
        width = max(map(len, COMMANDS))
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), listed.line) for name, listed in section.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it has begun to write is removed if Ctrl-C stops it."""
        try:
            with interrupts.unwinding():
                return super().invoke(ctx)
        except BaseException as error:
            if interrupts.caused(error):
                _fail_interrupted()
            raise


@click.command(cls=_LazyCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="lmeval")
def commands() -> None:
    """Evaluate models that assign probabilities."""


def main() -> None:
    """Run the command line; a mistake of the user's is one line on standard error and a non-zero status."""
    try:
        commands.main(prog_name="lmeval", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(f"{error.format_message()} (lmeval --help lists commands and options)", error.exit_code)
    except LmevalError as error:
        _fail(str(error), 1)
    except click.Abort:
        _fail_interrupted()
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: say nothing
        sys.exit(141)
    except OSError as error:  # a full disk, a name too long
        _fail(first_line(error), 1)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"lmeval: {' '.join(message.split())}", err=True)
    sys.exit(status)


def _fail_interrupted() -> NoReturn:
    click.echo(("\r" if sys.stderr.isatty() else "") + interrupts.MESSAGE, err=True)  # the terminal has echoed ^C
    sys.exit(interrupts.STATUS)

"""The command line: arguments -> one call -> a table for people and JSON for machines. No arithmetic."""

import sys

import click

from lmeval import __version__
from lmeval.cli.benchmark import benchmark_command
from lmeval.cli.compression import compress_command, decompress_command, inspect_command
from lmeval.cli.demo import demo_command
from lmeval.cli.images import images_command
from lmeval.cli.likelihood import likelihood_command
from lmeval.cli.perplexity import perplexity_command
from lmeval.cli.tasks import compare_command, rescore_command, run_command
from lmeval.errors import LmevalError, first_line


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
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted: nothing was written", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: say nothing
        sys.exit(141)
    except OSError as error:  # a full disk, a name too long
        _fail(first_line(error), 1)


def _fail(message: str, status: int) -> None:
    click.echo(f"lmeval: {' '.join(message.split())}", err=True)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="lmeval")
def commands() -> None:
    """Evaluate models that assign probabilities."""


for _command in (
    demo_command,
    perplexity_command,
    likelihood_command,
    run_command,
    rescore_command,
    compare_command,
    compress_command,
    decompress_command,
    inspect_command,
    benchmark_command,
    images_command,
):
    commands.add_command(_command)

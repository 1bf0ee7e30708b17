"""The command `lmeval`, and `python -m lmeval`, which `torchrun` and `accelerate launch` start too."""

from lmeval import interrupts


def main() -> None:
    """Run the command line; Ctrl-C is answered while its modules are still being imported."""
    interrupts.install()
    from lmeval import cli

    cli.main()


if __name__ == "__main__":
    main()

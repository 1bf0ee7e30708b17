"""`python -m lmeval`, which `torchrun` and `accelerate launch` start too."""

from lmeval.cli import main

if __name__ == "__main__":
    main()

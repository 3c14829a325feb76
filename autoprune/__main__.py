"""Lets `python -m autoprune` do what `autoprune` does."""

from autoprune.cli import main

if __name__ == "__main__":
    main()

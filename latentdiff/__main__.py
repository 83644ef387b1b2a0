"""`python -m latentdiff` is the `latentdiff` command."""

from latentdiff.cli.main import entry_point

if __name__ == "__main__":
    entry_point()

"""``python -m captionary``."""

from captionary.cli import main

main()

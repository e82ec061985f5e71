"""``python -m toolkit.cli``: the command line where the script ``roadworthy`` is not on the path, or under torchrun."""

from toolkit.cli import main

main()

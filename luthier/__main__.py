"""`python -m luthier`: the command line where the `luthier` script is not on the path."""

from luthier.cli import main

if __name__ == "__main__":
    main()

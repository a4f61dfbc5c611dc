"""`python -m qadv` is `qadv`."""

from qadv.cli import main

if __name__ == "__main__":
    main()

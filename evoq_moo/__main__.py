"""`python -m evoq_moo`."""

from evoq_moo.cli import main

if __name__ == "__main__":
    main()

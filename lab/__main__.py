"""``python -m lab`` is the command ``imslab``."""

from lab.cli import main

if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Puts certbot below the folder of build products, once, and prints the folder that it is in:
bin/certbot there runs with that folder as PYTHONPATH.

    certbot.py TARGET_DIR

What is installed is pinned by certbot.txt. Standard output is the path alone.
"""

import os

from shared import once, pip

REQUIREMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "certbot.txt")


def fill(folder):
    pip.install("certbot", "10 MB", REQUIREMENTS, folder)


if __name__ == "__main__":
    print(once.make(__doc__, "certbot", [REQUIREMENTS], fill))

#!/usr/bin/env python3
"""Puts axe-core, which checks pages for accessibility, below the folder of build products, once, and
prints the path of its script.

    axe.py TARGET_DIR

What is installed is pinned by tests/axe/package-lock.json. Standard output is the path alone.
"""

import os
import shutil
import subprocess
import sys

from shared import once

SOURCE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "axe")
PINS = [os.path.join(SOURCE, name) for name in ("package.json", "package-lock.json")]


def fill(folder):
    if shutil.which("npm") is None:
        sys.exit("npm is missing, which downloads axe-core (Debian: apt-get install npm)")
    print(f"Getting axe-core (3 MB, once), into {folder}", file=sys.stderr)
    for pin in PINS:
        shutil.copy(pin, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    # Standard output is for the path.
    code = subprocess.run(command, cwd=folder, stdout=sys.stderr, check=False).returncode
    if code != 0:
        sys.exit(f"could not get axe-core: npm ended with code {code}")


if __name__ == "__main__":
    folder = once.make(__doc__, "axe", PINS, fill)
    print(os.path.join(folder, "node_modules", "axe-core", "axe.min.js"))

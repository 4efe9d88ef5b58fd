#!/usr/bin/env python3
"""Compiles cargo-deb below the folder of build products, once, and prints where it is.

    cargo_deb.py TARGET_DIR

Two minutes on two cores. Standard output is the path alone; progress and errors go to standard error.
"""

import fcntl
import os
import subprocess
import sys

VERSION = "3.8.0"


def install(root):
    command = ["cargo", "install", "cargo-deb", "--version", VERSION, "--locked", "--root", root]
    # Not into the project's own folder, which the caller may have locked.
    environment = dict(os.environ, CARGO_TARGET_DIR=os.path.join(root, "build"))
    code = subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode
    if code != 0:
        sys.exit(f"cargo_deb.py: cargo-deb {VERSION} could not be compiled; run this again")


def main(target):
    root = os.path.join(os.path.abspath(target), "tools")
    program = os.path.join(root, "bin", "cargo-deb")
    os.makedirs(root, exist_ok=True)
    with open(os.path.join(root, "cargo-deb.lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(program):
            install(root)
    print(program)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])

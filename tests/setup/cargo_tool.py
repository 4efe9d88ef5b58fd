#!/usr/bin/env python3
"""Compiles a program of cargo's below the folder of build products, once, and prints where it is.

    cargo_tool.py TARGET_DIR NAME

Standard output is the path alone; progress and errors go to standard error.
"""

import fcntl
import os
import subprocess
import sys

VERSIONS = {
    # Makes the Debian package. Two minutes on two cores.
    "cargo-deb": "3.8.0",
    # Checks the dependencies by deny.toml. Four minutes on two cores.
    "cargo-deny": "0.20.2",
}


def main(target, name):
    root = os.path.join(os.path.abspath(target), "tools")
    program = os.path.join(root, "bin", name)
    os.makedirs(root, exist_ok=True)
    with open(os.path.join(root, name + ".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(program):
            command = ["cargo", "install", name, "--version", VERSIONS[name], "--locked", "--root", root]
            # Not into the project's own folder, which the caller may have locked.
            environment = dict(os.environ, CARGO_TARGET_DIR=os.path.join(root, "build"))
            code = subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode
            if code != 0:
                sys.exit(f"cargo_tool.py: {name} {VERSIONS[name]} could not be compiled; run this again")
    print(program)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in VERSIONS:
        sys.exit(__doc__)
    main(*sys.argv[1:])

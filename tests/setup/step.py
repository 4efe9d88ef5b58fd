#!/usr/bin/env python3
"""Builds step below the folder of build products, once, and prints where its binary is.

    step.py TARGET_DIR

What is built is pinned by tests/step/go.mod and go.sum; another version is another folder. Whoever
comes second waits for the first. Standard output is the path alone.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys

MODULE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "step")
PACKAGE = "github.com/smallstep/cli/cmd/step"

NO_GO = """\
step.py: there is no Go, which builds step.
  Debian, Ubuntu: apt-get install golang-go (1.24 or newer, or 1.21 with GOTOOLCHAIN=auto)
  Fedora:         dnf install golang"""


def version():
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        with open(os.path.join(MODULE, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:12]


def build(binary):
    if shutil.which("go") is None:
        sys.exit(NO_GO)
    print("Building step (a minute on two cores, once)", file=sys.stderr)
    temporary = binary + ".new"
    command = ["go", "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", temporary]
    # Standard output is for the path.
    code = subprocess.run(command + [PACKAGE], cwd=MODULE, stdout=sys.stderr, check=False).returncode
    if code != 0:
        sys.exit(f"step.py: could not build {PACKAGE}: go ended with code {code}")
    os.rename(temporary, binary)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: step.py TARGET_DIR")
    folder = os.path.join(os.path.abspath(sys.argv[1]), "step", version())
    binary = os.path.join(folder, "step")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.access(binary, os.X_OK):
            build(binary)
    print(binary)


if __name__ == "__main__":
    main()

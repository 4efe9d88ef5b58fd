"""Puts something below the folder of build products, once, even if several processes need it at the same time."""

import fcntl
import hashlib
import os
import sys
import tempfile


def version(*files):
    """A short hash of these files, which pin what is installed."""
    digest = hashlib.sha256()
    for name in files:
        with open(name, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:12]


def make(usage, name, files, fill):
    """The folder `name` of the build products for what `files` pin. The first time, `fill` fills it. A second
    process waits for the first one."""
    if len(sys.argv) != 2:
        sys.exit(usage)
    parent = os.path.join(os.path.abspath(sys.argv[1]), name)
    folder = os.path.join(parent, version(*files))
    os.makedirs(parent, exist_ok=True)
    with open(os.path.join(parent, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(folder):
            with tempfile.TemporaryDirectory(dir=parent) as scratch:
                made = os.path.join(scratch, name)
                os.mkdir(made)
                fill(made)
                # The rename makes all of it visible at once.
                os.rename(made, folder)
    return folder

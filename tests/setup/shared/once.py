"""Puts something below the folder of build products, once, however many ask for it at a time."""

import fcntl
import hashlib
import os
import sys
import tempfile


def version(*files):
    """What tells what these files pin from anything else."""
    digest = hashlib.sha256()
    for name in files:
        with open(name, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:12]


def make(usage, name, files, fill):
    """The folder `name` of the build products for what `files` pin. `fill` puts it there the first time,
    into a folder that it is given. Whoever comes second waits for the first."""
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
                # All of it is there, or none.
                os.rename(made, folder)
    return folder

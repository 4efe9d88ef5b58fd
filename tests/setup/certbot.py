#!/usr/bin/env python3
"""Puts certbot below the folder of build products, once, and prints the folder that it is in:
bin/certbot there runs with that folder as PYTHONPATH.

    certbot.py TARGET_DIR

What is installed is pinned by certbot.txt, hashes included; other pins are another folder. Whoever
comes second waits for the first. Standard output is the path alone.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile

REQUIREMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "certbot.txt")

FAILED = """\
certbot.py: could not get certbot: pip ended with code {code}.
  It takes pip (Debian, Ubuntu: apt-get install python3-pip) and a download of 10 MB."""


def version():
    with open(REQUIREMENTS, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:12]


def install(folder):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes"]
    command += ["--disable-pip-version-check", "--no-warn-script-location"]
    command += ["--target", folder, "--requirement", REQUIREMENTS]
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if code != 0:
        sys.exit(FAILED.format(code=code))


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: certbot.py TARGET_DIR")
    parent = os.path.join(os.path.abspath(sys.argv[1]), "certbot")
    folder = os.path.join(parent, version())
    os.makedirs(parent, exist_ok=True)
    with open(os.path.join(parent, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(folder):
            print(f"Getting certbot (10 MB, once), into {folder}", file=sys.stderr)
            with tempfile.TemporaryDirectory(dir=parent) as scratch:
                installed = os.path.join(scratch, "certbot")
                install(installed)
                # All of it is there, or none.
                os.rename(installed, folder)
    print(folder)


if __name__ == "__main__":
    main()

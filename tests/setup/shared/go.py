"""Builds a program of a Go module."""

import os
import shutil
import subprocess
import sys

NO_GO = """\
there is no Go, which builds {name}.
  Debian, Ubuntu: apt-get install golang-go (1.24 or newer, or 1.21 with GOTOOLCHAIN=auto)
  Fedora:         dnf install golang"""


def build(name, package, module, folder):
    """Builds `package` as the program `name` in `folder`, with the versions that the module pins."""
    if shutil.which("go") is None:
        sys.exit(NO_GO.format(name=name))
    print(f"Building {name} (a minute on two cores, once)", file=sys.stderr)
    command = ["go", "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w"]
    command += ["-o", os.path.join(folder, name), package]
    # Standard output is for the path.
    code = subprocess.run(command, cwd=module, stdout=sys.stderr, check=False).returncode
    if code != 0:
        sys.exit(f"could not build {package}: go ended with code {code}")

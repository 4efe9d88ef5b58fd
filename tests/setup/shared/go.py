"""Builds programs of a Go module, once."""

import os
import shutil
import subprocess
import sys

from shared import once

TESTS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

NO_GO = """\
Go is missing, which builds {name}.
  Debian, Ubuntu: apt-get install golang-go (1.24 or newer, or 1.21 with GOTOOLCHAIN=auto)
  Fedora:         dnf install golang"""


def programs(usage, module, packages):
    """The folder below the build products that has the programs of `packages`, which names each package's
    program. The versions are those that tests/MODULE/go.mod and go.sum pin."""
    source = os.path.join(TESTS, module)

    def fill(folder):
        for package, name in packages.items():
            build(name, package, source, folder)

    pins = [os.path.join(source, name) for name in ("go.mod", "go.sum")]
    return once.make(usage, module, pins, fill)


def build(name, package, source, folder):
    if shutil.which("go") is None:
        sys.exit(NO_GO.format(name=name))
    print(f"Building {name} (a minute on two cores, once)", file=sys.stderr)
    command = ["go", "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w"]
    command += ["-o", os.path.join(folder, name), package]
    # Standard output is for the path.
    code = subprocess.run(command, cwd=source, stdout=sys.stderr, check=False).returncode
    if code != 0:
        sys.exit(f"could not build {package}: go ended with code {code}")

#!/usr/bin/env python3
"""Builds etcd, kube-apiserver and kubectl below the folder of build products, once, and prints
the folder that they are in.

    kube.py TARGET_DIR

What is built is pinned by tests/kube/go.mod and go.sum; another version is another folder.
The tests and tests/run call it; whoever comes second waits for the first. Standard output is the
path alone; progress and errors go to standard error.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

MODULE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kube")
# Each package, and the name of its program.
PROGRAMS = {
    "go.etcd.io/etcd/server/v3": "etcd",
    "k8s.io/kubernetes/cmd/kube-apiserver": "kube-apiserver",
    "k8s.io/kubernetes/cmd/kubectl": "kubectl",
}

NO_GO = """\
kube.py: there is no Go, which builds the Kubernetes API server that these tests run against.
  It takes Go 1.24 or newer: Debian 13: apt-get install golang-go; Fedora: dnf install golang;
  elsewhere: from Go's own site."""


def version():
    """What tells one set of programs from another."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        with open(os.path.join(MODULE, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:12]


def build(folder):
    for package, name in PROGRAMS.items():
        print(f"Building {name} (all three take 4 minutes on two cores, once)", file=sys.stderr)
        command = ["go", "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w"]
        command += ["-o", os.path.join(folder, name), package]
        # Standard output is for the path.
        code = subprocess.run(command, cwd=MODULE, stdout=sys.stderr, check=False).returncode
        if code != 0:
            sys.exit(f"kube.py: could not build {package}: go ended with code {code}")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: kube.py TARGET_DIR")
    parent = os.path.join(os.path.abspath(sys.argv[1]), "kube")
    folder = os.path.join(parent, version())
    os.makedirs(parent, exist_ok=True)
    with open(os.path.join(parent, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(folder):
            if shutil.which("go") is None:
                sys.exit(NO_GO)
            with tempfile.TemporaryDirectory(dir=parent) as scratch:
                built = os.path.join(scratch, "bin")
                os.mkdir(built)
                build(built)
                # All of them are there, or none.
                os.rename(built, folder)
    print(folder)


if __name__ == "__main__":
    main()

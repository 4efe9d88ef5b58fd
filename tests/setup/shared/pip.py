"""Installs Python packages into a folder."""

import subprocess
import sys


def install(what, size, requirements, folder):
    """Installs what `requirements` pins, hashes included, into `folder`."""
    print(f"Getting {what} ({size}, once), into {folder}", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes"]
    command += ["--disable-pip-version-check", "--no-warn-script-location", "--root-user-action=ignore"]
    command += ["--target", folder, "--requirement", requirements]
    # Standard output is for the path.
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if code != 0:
        sys.exit(
            f"could not get {what}: pip ended with code {code}.\n"
            f"  It takes pip (Debian, Ubuntu: apt-get install python3-pip) and a download of {size}."
        )

#!/usr/bin/env python3
"""Fetches the resource definitions of Gateway API into the folder of build products, once, and prints
the path of their file.

    gateway_api.py TARGET_DIR

They are a file of the Go module, whose hash is pinned here; nothing of it is compiled. Standard output
is only the path; progress and errors go to standard error.
"""

import json
import os
import shutil
import subprocess
import sys

MODULE = "sigs.k8s.io/gateway-api"
VERSION = "v1.4.0"
# As in a go.sum: Go checks what it fetches against its own database of these, too.
SUM = "h1:ZwlNM6zOHq0h3WUX2gfByPs2yAEsy/EenYJB78jpQfQ="
FILES = [
    "config/crd/experimental/gateway.networking.k8s.io_gateways.yaml",
    "config/crd/experimental/gateway.networking.k8s.io_referencegrants.yaml",
]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: gateway_api.py TARGET_DIR")
    folder = os.path.join(os.path.abspath(sys.argv[1]), "gateway-api", VERSION)
    if not os.path.isdir(folder):
        if shutil.which("go") is None:
            sys.exit("gateway_api.py: Go is missing, which downloads the module")
        print(f"Fetching {MODULE} {VERSION}", file=sys.stderr)
        command = ["go", "mod", "download", "-json", f"{MODULE}@{VERSION}"]
        result = subprocess.run(command, stdout=subprocess.PIPE, check=False, cwd=os.path.dirname(os.path.abspath(__file__)))
        if result.returncode != 0:
            sys.exit(f"gateway_api.py: go ended with code {result.returncode}")
        module = json.loads(result.stdout)
        if module["Sum"] != SUM:
            sys.exit(f"gateway_api.py: the module's hash is {module['Sum']}, not {SUM}")
        scratch = f"{folder}.{os.getpid()}"
        os.makedirs(scratch)
        for name in FILES:
            shutil.copy(os.path.join(module["Dir"], name), scratch)
        try:
            os.rename(scratch, folder)
        except OSError:
            # A concurrent call was faster.
            shutil.rmtree(scratch)
    print(folder)


if __name__ == "__main__":
    main()

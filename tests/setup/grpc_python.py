#!/usr/bin/env python3
"""Puts Python's gRPC with server reflection below the folder of build products, once, and prints the
folder that they are in, which is to be the PYTHONPATH.

    grpc_python.py TARGET_DIR

What is installed is pinned by grpc_python.txt. Standard output is the path alone.
"""

import os

from shared import once, pip

REQUIREMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "grpc_python.txt")


def fill(folder):
    pip.install("gRPC for Python", "8 MB", REQUIREMENTS, folder)


if __name__ == "__main__":
    print(once.make(__doc__, "grpc-python", [REQUIREMENTS], fill))

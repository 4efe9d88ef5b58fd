#!/usr/bin/env python3
"""Builds grpcurl below the folder of build products, once, and prints where its binary is.

    grpcurl.py TARGET_DIR

What is built is pinned by tests/grpcurl/go.mod and go.sum. Standard output is the path alone.
"""

import os

from shared import go

if __name__ == "__main__":
    folder = go.programs(__doc__, "grpcurl", {"github.com/fullstorydev/grpcurl/cmd/grpcurl": "grpcurl"})
    print(os.path.join(folder, "grpcurl"))

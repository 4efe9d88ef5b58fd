#!/usr/bin/env python3
"""Builds step below the folder of build products, once, and prints where its binary is.

    step.py TARGET_DIR

What is built is pinned by tests/step/go.mod and go.sum. Standard output is the path alone.
"""

import os

from shared import go

if __name__ == "__main__":
    folder = go.programs(__doc__, "step", {"github.com/smallstep/cli/cmd/step": "step"})
    print(os.path.join(folder, "step"))

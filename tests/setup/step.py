#!/usr/bin/env python3
"""Builds step below the folder of build products, once, and prints where its binary is.

    step.py TARGET_DIR

What is built is pinned by tests/step/go.mod and go.sum. Standard output is the path alone.
"""

import os

from shared import go, once

MODULE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "step")
PINS = [os.path.join(MODULE, name) for name in ("go.mod", "go.sum")]


def fill(folder):
    go.build("step", "github.com/smallstep/cli/cmd/step", MODULE, folder)


if __name__ == "__main__":
    print(os.path.join(once.make(__doc__, "step", PINS, fill), "step"))

#!/usr/bin/env python3
"""Builds etcd, kube-apiserver and kubectl below the folder of build products, once, and prints
the folder that they are in.

    kube.py TARGET_DIR

What is built is pinned by tests/kube/go.mod and go.sum; another version is another folder.
The tests and tests/run call this; concurrent calls wait for the first one. Standard output is only
the path; progress and errors go to standard error.
"""

from shared import go

# Each package, and the name of its program.
PROGRAMS = {
    "go.etcd.io/etcd/server/v3": "etcd",
    "k8s.io/kubernetes/cmd/kube-apiserver": "kube-apiserver",
    "k8s.io/kubernetes/cmd/kubectl": "kubectl",
}

if __name__ == "__main__":
    print(go.programs(__doc__, "kube", PROGRAMS))

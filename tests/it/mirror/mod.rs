//! `sds-mirror` against a real kube-apiserver and etcd.

mod cluster;
mod latency;
mod output;
mod rights;
mod scale;
mod secrets;
mod walk;

use output::Output;

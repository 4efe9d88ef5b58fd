//! `sds-mirror` against a real kube-apiserver and etcd.

mod secrets;

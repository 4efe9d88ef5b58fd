//! The tests' certificates and their HTTPS client.
#![allow(dead_code, reason = "the tests use more of it")]

#[path = "../../tests/it/util/https.rs"]
pub(crate) mod https;
#[path = "../../tests/it/util/pki.rs"]
pub(crate) mod pki;
#[path = "../../tests/it/util/wait.rs"]
pub(crate) mod wait;

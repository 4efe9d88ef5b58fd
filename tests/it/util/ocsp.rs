//! OCSP responses, created with OpenSSL.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::pki::{Ca, Identity};

/// The status of a certificate in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Good,
    Revoked,
}

/// A response of `ca` for the certificate of `identity`, valid from now for this number of days, in DER.
pub(crate) fn staple(ca: &Ca, identity: &Identity, status: Status, days: u32) -> Vec<u8> {
    staple_with(ca, identity, status, &["-ndays", &days.to_string()])
}

/// As [`staple`], with options of `openssl ocsp`.
pub(crate) fn staple_with(
    ca: &Ca,
    identity: &Identity,
    status: Status,
    options: &[&str],
) -> Vec<u8> {
    let folder = tempfile::Builder::new().prefix("ocsp").tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("ca.crt", ca.pem());
    write("ca.key", &ca.key());
    write("leaf.crt", &identity.leaf);
    let run = |arguments: &[&str]| openssl(folder.path(), arguments);
    let serial = run(&["x509", "-noout", "-serial", "-in", "leaf.crt"]);
    let serial = serial.trim().strip_prefix("serial=").unwrap();
    let (letter, when) = match status {
        Status::Good => ("V", ""),
        Status::Revoked => ("R", "250101000000Z"),
    };
    let line = format!("{letter}\t350101000000Z\t{when}\t{serial}\tunknown\t/CN=x\n");
    write("index", &line);
    let request = "ocsp -issuer ca.crt -cert leaf.crt -no_nonce -reqout request";
    run(&request.split(' ').collect::<Vec<_>>());
    let response = "ocsp -index index -CA ca.crt -rsigner ca.crt -rkey ca.key -reqin request -respout response";
    run(&[&response.split(' ').collect::<Vec<_>>(), options].concat());
    fs::read(folder.path().join("response")).unwrap()
}

/// The output of OpenSSL, run in `folder`.
#[track_caller]
pub(crate) fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {printed}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

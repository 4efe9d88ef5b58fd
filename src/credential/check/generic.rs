//! A generic secret.

use zeroize::Zeroizing;

use super::findings::Findings;
use crate::credential::Generic;
use crate::credential::contents::{Item, without_line_end};
use crate::credential::layout::GENERIC_BINARY;
use crate::problem::Reason;

/// The secret in `file`; `None` if there are errors.
pub(crate) fn generic(file: &Item, findings: &mut Findings<'_>) -> Option<Generic> {
    findings.readable(file)?;
    let is_binary = file.name == GENERIC_BINARY;
    let secret = match is_binary {
        true => &file.bytes,
        false => without_line_end(&file.bytes),
    };
    if secret.is_empty() {
        let what = "it is empty: every request that Envoy uses it for would be refused";
        let remedy = "write the secret into it";
        findings.error(Reason::BadSecret, &file.name, what, remedy);
        return None;
    }
    findings.check_mode(file, "secret");
    if !is_binary && secret.iter().any(u8::is_ascii_control) {
        findings.warn(
            Reason::BadSecret,
            &file.name,
            "it has control characters or several lines, which an HTTP header can't contain",
            "write the secret in one line; or, if that is intended, rename the file to secret.bin",
        );
    }
    Some(Generic {
        secret: Zeroizing::new(secret.to_vec()),
        files: [&file.name].into_iter().collect(),
    })
}

//! TLS session ticket keys.

use zeroize::Zeroizing;

use super::findings::Findings;
use crate::credential::TicketKeys;
use crate::credential::contents::Item;
use crate::problem::Reason;

/// The length that Envoy accepts: a name of 16 bytes, and 32 bytes each for HMAC and AES.
const LENGTH: usize = 80;

/// The keys in `files`, in that order; `None` if there are errors.
pub(crate) fn ticket_keys(files: &[&Item], findings: &mut Findings<'_>) -> Option<TicketKeys> {
    let before = findings.errors.len();
    for file in files {
        if findings.readable(file).is_some() && file.bytes.len() != LENGTH {
            let what = format!(
                "it has {} bytes, and a session ticket key has exactly {LENGTH}",
                file.bytes.len()
            );
            let remedy = "copy it again, or replace it with a new one: openssl rand -out FILE 80";
            findings.error(Reason::BadTicketKey, &file.name, what, remedy);
        }
        findings.check_mode(file, "session ticket key");
    }
    (findings.errors.len() == before).then(|| TicketKeys {
        keys: files
            .iter()
            .map(|file| Zeroizing::new(file.bytes.to_vec()))
            .collect(),
        files: files.iter().map(|file| &file.name).collect(),
    })
}

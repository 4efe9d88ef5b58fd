//! What sds-agent will make of a Secret's content. It is written as it is in any case: the agent
//! keeps the last good pair, and what is on disk is what is in the cluster.

use std::path::Path;
use std::time::SystemTime;

use sds_agent::credential::from_files;
use sds_agent::files::read::File;

use crate::select::Files;

/// Why sds-agent will not serve these files; `None` when it will.
pub(crate) fn objection(folder: &Path, files: &Files) -> Option<String> {
    let files = files
        .iter()
        .map(|(name, bytes)| File {
            name: name.clone(),
            bytes: bytes.clone(),
            mode: 0o640,
        })
        .collect();
    let credential = from_files(folder, files, SystemTime::now(), 0);
    let texts: Vec<String> = credential.problems().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

//! What was looked at, as it was, so that a later look by `stat` alone tells whether it changed.

/// What a later look by `stat` alone is compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// The absolute paths, each ended by a NUL.
    paths: Box<[u8]>,
}

impl Stamps {
    /// Looks again at everything, by `lstat` alone: true when something is not as it was.
    pub fn changed(&self) -> bool {
        let _ = &self.paths;
        todo!()
    }
}

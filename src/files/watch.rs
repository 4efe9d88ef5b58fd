//! Watched folders → "changed".

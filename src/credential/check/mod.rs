//! Rejects what Envoy would reject, and what it would accept although it does harm.
//!
//! These rules were measured with Envoy 1.40; the tests compare both.

mod bundle;
mod certificate;
mod chain;
mod crl;
mod findings;
mod generic;
mod order;
mod staple;
mod ticket_keys;

pub(crate) use self::bundle::bundle;
pub(crate) use self::chain::{Judged, pair};
pub(crate) use self::findings::Findings;
pub(crate) use self::generic::generic;
pub(crate) use self::staple::{Stapled, staple};
pub(crate) use self::ticket_keys::ticket_keys;

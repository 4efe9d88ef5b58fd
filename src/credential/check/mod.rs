//! All that Envoy would reject, and all that it would accept to its users' harm.
//!
//! What is rejected here was measured with Envoy 1.40; the tests compare the two.

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

//! All that Envoy would reject, and all that it would accept to its users' harm.
//!
//! What is rejected here was measured with Envoy 1.40; the tests compare the two.

mod bundle;
mod certificate;
mod chain;
mod crl;
mod findings;
mod order;

pub(crate) use self::bundle::bundle;
pub(crate) use self::chain::pair;
pub(crate) use self::findings::Findings;

//! The protocols: who may have what, and the streams that deliver it.

pub mod access;
pub mod audit;

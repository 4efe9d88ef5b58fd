//! What operators and monitoring ask a running program: metrics, health, state. Read only.

pub mod http;

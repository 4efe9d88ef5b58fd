//! What a client sees on the socket: both protocols, and `FetchSecrets`.

mod delta;
mod fetch;
mod hostile;
mod sotw;

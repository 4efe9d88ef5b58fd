//! Both protocols and `FetchSecrets`, from a client's view.

mod delta;
mod fetch;
mod hostile;
mod sotw;

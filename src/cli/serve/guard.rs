//! Checks periodically who may read what: users who have left a group, and users who can read key files directly.

use std::collections::HashSet;

use sds_agent::config::Config;
use sds_agent::exposure::{Clients, Exposure};
use sds_agent::peer::REFRESH;
use sds_agent::pool::Pool;
use tokio::time::{Interval, interval};
use tracing::warn;

use super::run::Shared;

/// Checks users and their rights.
pub(super) struct Guard<'a> {
    shared: &'a Shared,
    config: Config,
    ticks: Interval,
    /// A separate pool, because reading the mode of a key file may block.
    pool: Pool,
    /// The users for whom a warning was logged.
    warned: HashSet<String>,
}

impl<'a> Guard<'a> {
    /// The first check is due immediately.
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            config: shared.config.clone(),
            ticks: interval(REFRESH),
            pool: Pool::new("guard", 1),
            warned: HashSet::new(),
        }
    }

    /// Applies another configuration: all warnings are logged again, and the next check is due immediately.
    pub(super) fn configure(&mut self, config: &Config) {
        self.config = config.clone();
        self.warned.clear();
        self.ticks.reset_immediately();
    }

    /// Waits until the next check is due, and runs it. Cancel safe.
    pub(super) async fn watch(&mut self) {
        self.ticks.tick().await;
        if self.shared.accounts.refresh().await {
            self.shared.hub.wake_all();
        }
        self.warn_of_exposures().await;
    }

    async fn warn_of_exposures(&mut self) {
        let published = self.shared.hub.current();
        let config = self.config.clone();
        let found = self.pool.run(move || {
            let agent = rustix::process::geteuid().as_raw();
            let clients = Clients::of(&config, agent);
            if clients.is_empty() {
                return Vec::new();
            }
            let credentials = published.snapshot.credentials();
            clients.exposures(credentials.filter_map(|one| one.key_file()))
        });
        for exposure in found.await.unwrap_or_default() {
            self.warn_once(&exposure);
        }
    }

    fn warn_once(&mut self, exposure: &Exposure) {
        if self.warned.insert(exposure.user.clone()) {
            warn!("{exposure}");
        }
    }
}

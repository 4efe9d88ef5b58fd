//! One pass over the files, without a watch: the state that an agent would have.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::reading::Reader;
use crate::config::Config;
use crate::files::read::{Route, Unwatched};
use crate::inventory::{Inventory, Now, Snapshot};
use crate::secret::Name;

/// Longer than the inventory ever waits for further changes.
const SETTLED: Duration = Duration::from_secs(3600);

/// The inventory of the configured roots at this moment. For a root in `only`, just that one folder is read.
/// Blocks.
pub fn read_once(config: &Config, only: &BTreeMap<Arc<Path>, Name>) -> Snapshot {
    let now = Now::read();
    let mut inventory = Inventory::new(config);
    for root in &config.roots {
        let reader = Reader {
            root: root.clone(),
            limits: config.limits,
            epoch: 0,
        };
        let path: Arc<Path> = root.path.as_path().into();
        let mut listing = reader.list(&mut Unwatched);
        if let Some(only) = only.get(&path) {
            listing.credentials.retain(|name| **name == **only);
            listing
                .problems
                .retain(|problem| problem.path() == path.join(&**only));
        }
        let folders = inventory.listed(&path, listing, now, now.instant);
        let route = Route::to(&path);
        for key in folders {
            let reading = reader.read(&key, &route, &mut Unwatched);
            inventory.observe(&key, reader.judge(&key, reading), now, now.instant);
        }
    }
    inventory.tick(Now {
        instant: now.instant + SETTLED,
        ..now
    });
    inventory.snapshot().clone()
}

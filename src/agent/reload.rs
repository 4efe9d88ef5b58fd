//! Another configuration for a running agent.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::Agent;
use super::reading::Owner;
use super::root::Root;
use crate::config::Config;

impl Agent {
    /// Goes on with another configuration. Streams notice nothing of it but what changed in the
    /// secrets that they wait for.
    pub(super) fn reload(&mut self, config: Config) {
        let mut old: Vec<_> = std::mem::take(&mut self.roots);
        for settings in &config.roots {
            let kept = old.iter().position(|root| *root.path == *settings.path);
            self.roots
                .push(match kept.map(|index| old.swap_remove(index)) {
                    Some(root) => root.with(settings.clone(), &self.watch),
                    None => Root::new(settings.clone()),
                });
        }
        old.iter().for_each(|root| self.forget(&root.path));
        let delay = config.removal_delay;
        self.folders
            .values_mut()
            .for_each(|folder| folder.set_removal_delay(delay));
        self.catalog.configure(&config);
        self.board.configure(&config);
        self.config = config;
        self.renumber();
        self.watch.mark_all();
        self.look_at_roots();
    }

    /// Drops a root that is no longer configured, with its folders.
    fn forget(&mut self, root: &Arc<Path>) {
        self.watch.forget(&Owner::Root(root.clone()));
        self.expiry.retain(|key| key.root != *root);
        self.reads.forget(root);
        let (watch, board) = (&self.watch, &self.board);
        self.folders.retain(|key, _| {
            let stays = key.root != *root;
            if !stays {
                board.strike(key);
                watch.forget(&Owner::Folder(key.clone()));
            }
            stays
        });
    }

    /// Publishes all folders under the present order of the roots, and sets the timer anew.
    fn renumber(&mut self) {
        let ranks: HashMap<_, _> = self
            .roots
            .iter()
            .enumerate()
            .map(|(rank, root)| (root.path.clone(), rank))
            .collect();
        let parts = self.folders.iter().filter_map(|(key, folder)| {
            Some((
                key.name.clone(),
                *ranks.get(&key.root)?,
                folder.parts().clone(),
            ))
        });
        self.catalog.replace(parts);
        let deadlines = self.folders.iter();
        self.deadlines = deadlines
            .filter_map(|(key, folder)| Some((folder.deadline()?, key.clone())))
            .collect();
    }
}

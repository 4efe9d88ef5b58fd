//! Delta: each response holds what changed alone, and names what does not exist.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tonic::Status;

use super::message;
use super::session::{
    Effect, InFlight, Response, Session, View, check_count, check_type_url, is_name,
};
use crate::proto::discovery::DeltaDiscoveryRequest;
use crate::secret::Name;

/// How many bytes of secrets go into one response, unless a single secret is larger: clients
/// other than Envoy refuse messages over 4 MiB by default. The rest follows at once.
const RESPONSE_BYTES: usize = 1024 * 1024;

/// One delta stream.
pub(crate) struct Delta {
    max_names: usize,
    /// What the stream waits for, and what it was told last.
    names: BTreeMap<Name, Told>,
    /// Names that were asked for, or changed, since the last response.
    due: BTreeSet<Name>,
    in_flight: InFlight,
    started: bool,
}

/// What the client knows of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Absent,
    Version(Arc<str>),
}

impl Delta {
    /// A stream that may wait for at most `max_names` names.
    pub(crate) fn new(max_names: usize) -> Self {
        Self {
            max_names,
            names: BTreeMap::new(),
            due: BTreeSet::new(),
            in_flight: InFlight::default(),
            started: false,
        }
    }

    fn unsubscribe(&mut self, names: Vec<String>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for name in names {
            if let Some((name, _)) = self.names.remove_entry(name.as_str()) {
                self.due.remove(&name);
                effects.push(Effect::Unsubscribe(name));
            }
        }
        effects
    }

    /// Names that are asked for once more are sent once more. `versions` is what a client that
    /// reconnects still has.
    fn subscribe(
        &mut self,
        names: Vec<String>,
        mut versions: HashMap<String, String>,
    ) -> Result<Vec<Effect>, Status> {
        let mut effects = Vec::new();
        for name in names.into_iter().filter(|name| is_name(name)) {
            let told = versions
                .remove(&name)
                .map_or(Told::Nothing, |v| Told::Version(v.into()));
            let name = Name::from(name);
            self.names.insert(name.clone(), told);
            self.due.insert(name.clone());
            effects.push(Effect::Subscribe(name));
            check_count(self.names.len(), self.max_names)?;
        }
        Ok(effects)
    }
}

impl Session for Delta {
    type Request = DeltaDiscoveryRequest;

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<Vec<Effect>, Status> {
        check_type_url(&request.type_url)?;
        let first = !std::mem::replace(&mut self.started, true);
        let versions = if first {
            request.initial_resource_versions
        } else {
            HashMap::new()
        };

        let mut effects: Vec<_> = request.node.map(Effect::Node).into_iter().collect();
        effects.extend(
            self.in_flight
                .answered(&request.response_nonce, request.error_detail),
        );
        effects.extend(self.unsubscribe(request.resource_names_unsubscribe));
        effects.extend(self.subscribe(request.resource_names_subscribe, versions)?);
        Ok(effects)
    }

    fn changed(&mut self, name: &Name) {
        if self.names.contains_key(name) {
            self.due.insert(name.clone());
        }
    }

    fn respond(&mut self, view: &impl View) -> Option<Response> {
        let (mut secrets, mut removed, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < RESPONSE_BYTES {
            let Some(name) = self.due.pop_first() else {
                break;
            };
            let Some(told) = self.names.get_mut(&name) else {
                continue;
            };
            let current = view.secret(&name);
            let now = current
                .as_ref()
                .map_or(Told::Absent, |s| Told::Version(s.version().clone()));
            if *told == now {
                continue;
            }
            *told = now;
            bytes += current
                .as_ref()
                .map_or(name.len(), |secret| secret.resource().len());
            match current {
                Some(secret) => secrets.push(secret),
                None => removed.push(name),
            }
        }
        if secrets.is_empty() && removed.is_empty() {
            return None;
        }
        let sent = secrets.iter().map(|secret| secret.name().clone());
        let nonce = self
            .in_flight
            .sent(sent.chain(removed.iter().cloned()).collect());
        Some(Response {
            frame: message::delta(&nonce, &secrets, &removed),
            secrets,
            removed,
        })
    }
}

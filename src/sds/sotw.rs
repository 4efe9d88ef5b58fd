//! State of the world: each response holds all secrets that the stream asked for and that exist.
//!
//! A removal is never announced: Envoy takes nothing from a response without the resource, and one
//! with no resource at all is never sent. It keeps the last certificate either way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tonic::Status;

use super::message;
use super::session::{
    Effect, InFlight, Response, Session, View, check_count, check_type_url, is_name,
};
use crate::proto::discovery::DiscoveryRequest;
use crate::secret::{Name, Secret};

/// One SotW stream.
pub(crate) struct Sotw {
    max_names: usize,
    /// What the stream waits for, with the version that it was sent last.
    names: BTreeMap<Name, Option<Arc<str>>>,
    /// Names that were asked for, or changed, since the last response.
    due: BTreeSet<Name>,
    in_flight: InFlight,
    version_info: String,
}

impl Sotw {
    /// A stream that may wait for at most `max_names` names.
    pub(crate) fn new(max_names: usize) -> Self {
        Self {
            max_names,
            names: BTreeMap::new(),
            due: BTreeSet::new(),
            in_flight: InFlight::default(),
            version_info: String::new(),
        }
    }

    /// A request without a nonce starts over, unless it is an ACK of a client that leaves the
    /// nonce out: to answer that one would never end.
    fn starts_over(&self, request: &DiscoveryRequest) -> bool {
        self.in_flight.is_empty()
            || request.response_nonce.is_empty()
                && (request.version_info.is_empty() || request.version_info != self.version_info)
    }

    /// Makes `wanted` what the stream waits for. What is new to it is due, and everything is when
    /// the client starts over.
    fn subscribe(&mut self, wanted: BTreeSet<Name>, anew: bool) -> Vec<Effect> {
        let dropped: Vec<_> = self
            .names
            .keys()
            .filter(|name| !wanted.contains(*name))
            .cloned()
            .collect();
        for name in &dropped {
            self.names.remove(name);
            self.due.remove(name);
        }
        let mut effects: Vec<_> = dropped.into_iter().map(Effect::Unsubscribe).collect();
        for name in wanted {
            if anew || !self.names.contains_key(&name) {
                self.names.insert(name.clone(), None);
                self.due.insert(name.clone());
                effects.push(Effect::Subscribe(name));
            }
        }
        effects
    }
}

impl Session for Sotw {
    type Request = DiscoveryRequest;

    fn request(&mut self, request: DiscoveryRequest) -> Result<Vec<Effect>, Status> {
        check_type_url(&request.type_url)?;
        let anew = self.starts_over(&request);
        let nonce = &request.response_nonce;
        if !anew && !nonce.is_empty() && !self.in_flight.is_last(nonce) {
            // Stale: the client had not seen the last response yet, and answers that one too.
            return Ok(Vec::new());
        }
        check_count(request.resource_names.len(), self.max_names)?;
        let names = request.resource_names.iter().filter(|name| is_name(name));
        let wanted = names.map(|name| Name::from(name.as_str())).collect();

        let mut effects: Vec<_> = request.node.map(Effect::Node).into_iter().collect();
        effects.extend(self.in_flight.answered(nonce, request.error_detail));
        effects.extend(self.subscribe(wanted, anew));
        Ok(effects)
    }

    fn changed(&mut self, name: &Name) {
        if self.names.contains_key(name) {
            self.due.insert(name.clone());
        }
    }

    fn respond(&mut self, view: &impl View) -> Option<Response> {
        let news = std::mem::take(&mut self.due).into_iter().any(|name| {
            let current = view.secret(&name);
            let sent = self.names.get(&name).and_then(Option::as_ref);
            current.is_some_and(|secret| Some(secret.version()) != sent)
        });
        if !news {
            return None;
        }
        let secrets: Vec<_> = self
            .names
            .keys()
            .filter_map(|name| view.secret(name))
            .collect();
        for secret in &secrets {
            self.names
                .insert(secret.name().clone(), Some(secret.version().clone()));
        }
        self.version_info = version_info(&secrets);
        let nonce = self
            .in_flight
            .sent(secrets.iter().map(|secret| secret.name().clone()).collect());
        Some(Response {
            frame: message::sotw(&self.version_info, &nonce, &secrets),
            secrets,
            removed: Vec::new(),
        })
    }
}

/// The version of a response: that of its only secret, or a hash of all names and versions. It
/// depends on the content alone, as the versions do, since clients remember it across restarts.
pub(crate) fn version_info(secrets: &[Arc<Secret>]) -> String {
    if let [secret] = secrets {
        return secret.version().to_string();
    }
    let mut hash = Sha256::new();
    for secret in secrets {
        hash.update(secret.name().as_bytes());
        hash.update([0]);
        hash.update(secret.version().as_bytes());
        hash.update([0]);
    }
    crate::secret::short_hex(&hash.finalize())
}

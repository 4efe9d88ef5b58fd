//! The Secrets and ConfigMaps that a Gateway refers to, and which of those references are allowed.
//!
//! A reference to another namespace is only used if a `ReferenceGrant` in that namespace allows it, as in any
//! implementation of Gateway API.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

use crate::select::{Id, Kind, Scope};

const GROUP: &str = "gateway.networking.k8s.io";
/// The fields with references. They are searched in all of a Gateway's `spec`, because releases of Gateway API
/// have the CAs in different places.
const REFERENCES: [&str; 2] = ["certificateRefs", "caCertificateRefs"];

/// The API of Gateways.
pub(crate) fn gateway_api() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", "Gateway"))
}

/// The API of ReferenceGrants: the version that every release serves.
pub(crate) fn grant_api() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1beta1", "ReferenceGrant"))
}

/// What a Gateway refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gateway {
    pub(crate) id: Id,
    references: BTreeSet<Id>,
    /// References to objects that can't be mirrored.
    unknown: Vec<String>,
}

impl Gateway {
    /// The references of this object.
    pub(crate) fn of(object: &DynamicObject) -> Self {
        let mut gateway = Self {
            id: Id::of(Kind::Gateway, &object.metadata),
            references: BTreeSet::new(),
            unknown: Vec::new(),
        };
        gateway.collect(&object.data["spec"]);
        gateway
    }

    fn collect(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    match field {
                        Value::Array(list) if REFERENCES.contains(&name.as_str()) => {
                            list.iter().for_each(|reference| self.add(reference));
                        }
                        field => self.collect(field),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| self.collect(value)),
            _ => {}
        }
    }

    fn add(&mut self, reference: &Value) {
        let text = |name: &str| reference[name].as_str().unwrap_or_default();
        let kind = match (text("group"), text("kind")) {
            ("", "" | "Secret") => Kind::Secret,
            ("", "ConfigMap") => Kind::ConfigMap,
            (group, kind) => {
                let name = text("name");
                self.unknown.push(format!("{group}/{kind} {name}"));
                return;
            }
        };
        let namespace = match text("namespace") {
            "" => self.id.namespace.clone(),
            other => other.to_owned(),
        };
        self.references.insert(Id {
            kind,
            namespace,
            name: text("name").to_owned(),
        });
    }
}

/// The references that a ReferenceGrant allows to Gateways of some namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) id: Id,
    from: BTreeSet<String>,
    /// Kinds, each with one name or for all names.
    to: Vec<(Kind, Option<String>)>,
}

impl Grant {
    /// The grant of this object.
    pub(crate) fn of(object: &DynamicObject) -> Self {
        let list = |name: &str| {
            object.data["spec"][name]
                .as_array()
                .cloned()
                .unwrap_or_default()
        };
        let from = list("from")
            .into_iter()
            .filter(|from| from["group"] == GROUP && from["kind"] == "Gateway")
            .filter_map(|from| from["namespace"].as_str().map(str::to_owned));
        let to = list("to").into_iter().filter_map(|to| {
            let kind = match (to["group"].as_str()?, to["kind"].as_str()?) {
                ("", "Secret") => Kind::Secret,
                ("", "ConfigMap") => Kind::ConfigMap,
                _ => return None,
            };
            Some((kind, to["name"].as_str().map(str::to_owned)))
        });
        Self {
            id: Id::of(Kind::ReferenceGrant, &object.metadata),
            from: from.collect(),
            to: to.collect(),
        }
    }

    fn allows(&self, from: &str, to: &Id) -> bool {
        let covers = |(kind, name): &(Kind, Option<String>)| {
            *kind == to.kind && name.as_ref().is_none_or(|name| *name == to.name)
        };
        self.id.namespace == to.namespace && self.from.contains(from) && self.to.iter().any(covers)
    }
}

/// The known state of the Gateway and of the grants for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    /// The Gateway; `None` while it is unknown, `Some(None)` if it does not exist.
    gateway: Option<Option<Gateway>>,
    grants: BTreeMap<Id, Grant>,
    /// The namespaces whose grants are known.
    granted: BTreeSet<String>,
}

/// What a Gateway selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) wanted: BTreeSet<Id>,
    /// References that may be allowed: the grants are not known yet.
    pub(crate) undecided: BTreeSet<Id>,
    /// What is wrong, by subject.
    pub(crate) problems: BTreeMap<String, String>,
}

impl Selector {
    /// Sets the Gateway; `None` if it does not exist.
    pub(crate) fn set_gateway(&mut self, gateway: Option<Gateway>) {
        self.gateway = Some(gateway);
    }

    /// Sets all grants of a namespace.
    pub(crate) fn set_grants(&mut self, namespace: &str, grants: Vec<Grant>) {
        self.grants.retain(|id, _| id.namespace != namespace);
        self.grants
            .extend(grants.into_iter().map(|grant| (grant.id.clone(), grant)));
        self.granted.insert(namespace.to_owned());
    }

    /// Adds or replaces a grant.
    pub(crate) fn add_grant(&mut self, grant: Grant) {
        self.grants.insert(grant.id.clone(), grant);
    }

    /// Removes a grant.
    pub(crate) fn remove_grant(&mut self, id: &Id) {
        self.grants.remove(id);
    }

    /// The scopes that must be watched for the current references.
    pub(crate) fn scopes(&self) -> BTreeSet<Scope> {
        let Some(Some(gateway)) = &self.gateway else {
            return BTreeSet::new();
        };
        let objects = gateway.references.iter().map(Id::scope);
        let foreign = gateway
            .references
            .iter()
            .filter(|id| id.namespace != gateway.id.namespace);
        let grants = foreign.map(|id| Scope {
            kind: Kind::ReferenceGrant,
            namespace: id.namespace.clone(),
        });
        objects.chain(grants).collect()
    }

    /// What the Gateway selects; `None` while it is unknown.
    pub(crate) fn selected(&self) -> Option<Selected> {
        let mut selected = Selected::default();
        let Some(gateway) = self.gateway.as_ref()? else {
            let text = "the Gateway does not exist; check the name after --gateway";
            selected
                .problems
                .insert("gateway".to_owned(), text.to_owned());
            return Some(selected);
        };
        for unknown in &gateway.unknown {
            let text = "it is not mirrored: only Secrets and ConfigMaps are";
            selected
                .problems
                .insert(format!("{}: {unknown}", gateway.id), text.to_owned());
        }
        for id in &gateway.references {
            let allows = |grant: &Grant| grant.allows(&gateway.id.namespace, id);
            if id.namespace == gateway.id.namespace || self.grants.values().any(allows) {
                selected.wanted.insert(id.clone());
            } else if self.granted.contains(&id.namespace) {
                let text = format!(
                    "{} refers to it, and no ReferenceGrant in its namespace allows that; create one, or remove the \
                     reference",
                    gateway.id
                );
                selected.problems.insert(id.to_string(), text);
            } else {
                selected.undecided.insert(id.clone());
            }
        }
        Some(selected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(namespace: &str, name: &str, spec: Value) -> DynamicObject {
        let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn selector(spec: Value) -> Selector {
        let mut selector = Selector::default();
        selector.set_gateway(Some(Gateway::of(&object("infra", "public", spec))));
        selector
    }

    fn names(ids: &BTreeSet<Id>) -> Vec<String> {
        ids.iter().map(Id::to_string).collect()
    }

    #[test]
    fn references_of_every_release_are_found() {
        let selector = selector(json!({
            "listeners": [
                {"name": "a", "tls": {
                    "certificateRefs": [{"name": "one"}, {"kind": "Secret", "group": "", "name": "two"}],
                    "frontendValidation": {"caCertificateRefs": [
                        {"group": "", "kind": "ConfigMap", "name": "old-ca"}]},
                }},
                {"name": "b"},
            ],
            "tls": {"frontend": {
                "default": {"validation": {"caCertificateRefs": [
                    {"group": "", "kind": "ConfigMap", "name": "new-ca"}]}},
                "perPort": [{"port": 443, "tls": {"validation": {"caCertificateRefs": [
                    {"group": "", "kind": "Secret", "name": "port-ca"},
                    {"group": "example.com", "kind": "Bundle", "name": "other"}]}}}],
            }},
        }));
        let selected = selector.selected().unwrap();
        assert_eq!(
            names(&selected.wanted),
            [
                "infra/one",
                "infra/port-ca",
                "infra/two",
                "ConfigMap infra/new-ca",
                "ConfigMap infra/old-ca"
            ]
        );
        assert_eq!(selected.problems.len(), 1, "{:?}", selected.problems);
    }

    #[test]
    fn a_reference_to_another_namespace_requires_a_grant() {
        let refs =
            json!([{"name": "web", "namespace": "shop"}, {"name": "api", "namespace": "shop"}]);
        let mut selector = selector(json!({"listeners": [{"tls": {"certificateRefs": refs}}]}));
        let selected = selector.selected().unwrap();
        assert_eq!(names(&selected.undecided), ["shop/api", "shop/web"]);
        assert!(
            selector
                .scopes()
                .iter()
                .any(|scope| scope.kind == Kind::ReferenceGrant)
        );

        let from = json!([{"group": GROUP, "kind": "Gateway", "namespace": "infra"}]);
        let grant = |namespace: &str, from: &Value, to: Value| {
            Grant::of(&object(namespace, "g", json!({"from": from, "to": to})))
        };
        let secret = json!([{"group": "", "kind": "Secret", "name": "web"}]);
        selector.set_grants("shop", vec![grant("shop", &from, secret.clone())]);
        let selected = selector.selected().unwrap();
        assert_eq!(names(&selected.wanted), ["shop/web"]);
        assert!(selected.undecided.is_empty());
        assert_eq!(selected.problems.len(), 1);

        for (namespace, from, to) in [
            ("infra", &from, json!([{"group": "", "kind": "Secret"}])),
            (
                "shop",
                &json!([{"group": GROUP, "kind": "HTTPRoute", "namespace": "infra"}]),
                secret,
            ),
            ("shop", &from, json!([{"group": "", "kind": "ConfigMap"}])),
        ] {
            selector.set_grants("shop", vec![grant(namespace, from, to)]);
            assert!(selector.selected().unwrap().wanted.is_empty());
        }
        selector.set_grants("shop", Vec::new());
        selector.add_grant(grant(
            "shop",
            &from,
            json!([{"group": "", "kind": "Secret"}]),
        ));
        assert_eq!(selector.selected().unwrap().wanted.len(), 2);
    }

    #[test]
    fn without_a_gateway_nothing_is_selected() {
        let mut selector = Selector::default();
        assert_eq!(selector.selected(), None);
        selector.set_gateway(None);
        let selected = selector.selected().unwrap();
        assert!(selected.wanted.is_empty() && selected.problems.contains_key("gateway"));
    }
}

//! Selects the Secrets and ConfigMaps that are mirrored, and the files of each.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::name::{NameTemplate, check_folder, check_key, is_reserved};

/// The keys of credentials. No other key is written to disk unless it is mapped.
const KEYS: [&str; 8] = [
    "cert",
    "key",
    "cacert",
    "tls.crt",
    "tls.key",
    "ca.crt",
    "ca.crl",
    "tls.ocsp-staple",
];
/// The keys of certificate and private key: Istio's, and those of Kubernetes.
const PAIRS: [[&str; 2]; 2] = [["cert", "key"], ["tls.crt", "tls.key"]];
/// The keys of a trust bundle, likewise.
const BUNDLES: [&str; 2] = ["cacert", "ca.crt"];
/// The files of a ConfigMap: the bundle, and the revocation lists from the key of the same name.
const CONFIGMAP_FILE: &str = "ca.crt";
const CONFIGMAP_CRL: &str = "ca.crl";
/// The default keys for the bundle of a ConfigMap, the preferred one first: that of Gateway API, then those in
/// the documentation of trust-manager.
pub(crate) const CONFIGMAP_KEYS: [&str; 4] = [
    "ca.crt",
    "ca-bundle.crt",
    "trust-bundle.pem",
    "root-certs.pem",
];
/// The annotation that sets the name of an object's folder.
pub(crate) const FOLDER_ANNOTATION: &str = "sds-agent/folder";

/// Excludes types that are never mirrored, of which there may be many or large Secrets.
pub(crate) const LEAVE_OUT: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,\
    type!=kubernetes.io/dockerconfigjson,type!=bootstrap.kubernetes.io/token";

/// The kinds of objects that are read from the cluster.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub(crate) enum Kind {
    #[default]
    Secret,
    ConfigMap,
    Gateway,
    ReferenceGrant,
}

impl Kind {
    /// The resource's name in URLs and rights, and as a metric label.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
            Self::Gateway => "gateways",
            Self::ReferenceGrant => "referencegrants",
        }
    }
}

/// One kind of object in one namespace, which is one list and one watch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Scope {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in namespace {}",
            self.kind.resource(),
            self.namespace
        )
    }
}

/// Identifies an object in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Id {
    /// The identity of an object with this metadata.
    pub(crate) fn of(kind: Kind, metadata: &ObjectMeta) -> Self {
        Self {
            kind,
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    /// The scope that it belongs to.
    pub(crate) fn scope(&self) -> Scope {
        Scope {
            kind: self.kind,
            namespace: self.namespace.clone(),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != Kind::Secret {
            write!(f, "{:?} ", self.kind)?;
        }
        // A hostile server must not be able to forge a log line.
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Files of a folder by name; wiped when dropped.
pub(crate) type Files = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// The rules by which objects become folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The names of Secrets' folders.
    pub(crate) template: NameTemplate,
    /// The names of ConfigMaps' folders.
    pub(crate) configmap_template: NameTemplate,
    /// Additional keys of Secrets, each with the name of its file.
    pub(crate) keys: BTreeMap<String, String>,
    /// The keys of a ConfigMap that may hold its bundle; the first one that exists is used.
    pub(crate) configmap_keys: Vec<String>,
}

/// An object, and whether it is mirrored.
pub(crate) struct Selected {
    pub(crate) id: Id,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) choice: Choice,
    /// Keys that can't be file names, with the reason. The other keys are used.
    pub(crate) bad_keys: Vec<String>,
}

/// Whether an object is mirrored.
pub(crate) enum Choice {
    /// It is mirrored, as these files in this folder.
    Take { folder: String, files: Files },
    /// It is not a credential.
    Skip(&'static str),
    /// It should be mirrored, but can't be.
    Refuse(String),
}

/// Decides whether a Secret is mirrored. Content that is not used is wiped.
pub(crate) fn secret(secret: Secret, rules: &Rules) -> Selected {
    let content: Files = secret
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, Zeroizing::new(value.0)))
        .collect();
    for mut text in secret.string_data.unwrap_or_default().into_values() {
        text.zeroize();
    }
    let bad_keys = content.keys().filter_map(|key| bad_key(key)).collect();
    let type_ = secret.type_.as_deref().unwrap_or("Opaque");
    selected(Kind::Secret, secret.metadata, bad_keys, |id, folder| {
        choose_secret(id, type_, content, folder, rules)
    })
}

/// Decides whether a ConfigMap is mirrored.
pub(crate) fn configmap(configmap: ConfigMap, rules: &Rules) -> Selected {
    let mut texts = configmap.data.unwrap_or_default();
    let mut binary = configmap.binary_data.unwrap_or_default();
    let mut content = |key: &str| {
        let text = texts.remove(key).map(String::into_bytes);
        let bytes = text.or_else(|| binary.remove(key).map(|bytes| bytes.0));
        bytes.map(Zeroizing::new)
    };
    let bundle = rules.configmap_keys.iter().find_map(|key| content(key));
    let crl = content(CONFIGMAP_CRL);
    selected(
        Kind::ConfigMap,
        configmap.metadata,
        Vec::new(),
        |id, folder| {
            let Some(bundle) = bundle else {
                return Choice::Skip("it has none of the keys that may hold a CA bundle");
            };
            let mut files = Files::from([(CONFIGMAP_FILE.to_owned(), bundle)]);
            files.extend(crl.map(|crl| (CONFIGMAP_CRL.to_owned(), crl)));
            take(id, folder, files, &rules.configmap_template)
        },
    )
}

/// Builds the result. `choose` receives the identity and the folder from the annotation.
fn selected(
    kind: Kind,
    metadata: ObjectMeta,
    bad_keys: Vec<String>,
    choose: impl FnOnce(&Id, Option<String>) -> Choice,
) -> Selected {
    let id = Id::of(kind, &metadata);
    let folder = metadata
        .annotations
        .and_then(|mut annotations| annotations.remove(FOLDER_ANNOTATION));
    Selected {
        choice: choose(&id, folder),
        id,
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        bad_keys,
    }
}

fn bad_key(key: &str) -> Option<String> {
    let why = check_key(key).err()?;
    let shown: String = key.chars().take(40).collect();
    Some(format!("the key {shown:?} {why}"))
}

fn choose_secret(
    id: &Id,
    type_: &str,
    content: Files,
    folder: Option<String>,
    rules: &Rules,
) -> Choice {
    if !matches!(type_, "Opaque" | "kubernetes.io/tls") {
        return Choice::Skip("its type is not that of a credential");
    }
    if folder.is_none() && is_reserved(&id.name) {
        return Choice::Skip("its name begins with istio or prometheus");
    }
    if content.contains_key("token") && !rules.keys.contains_key("token") {
        return Choice::Skip("it has a key named token");
    }
    let is_mapped = content.keys().any(|key| rules.keys.contains_key(key));
    let files = files(content, rules);
    let has = |key: &str| files.contains_key(key);
    let pair = PAIRS.iter().any(|pair| pair.iter().all(|key| has(key)));
    if !pair && !is_mapped && !BUNDLES.iter().any(|key| has(key)) {
        // A `key` without a certificate belongs to another program; a certificate was meant for this one.
        let lone = PAIRS.iter().find(|[certificate, _]| has(certificate));
        return match lone {
            Some([certificate, key]) => Choice::Refuse(format!(
                "it has {certificate} and lacks {key}; add it, or cacert for a CA bundle"
            )),
            None => Choice::Skip("it has no credential"),
        };
    }
    take(id, folder, files, &rules.template)
}

/// The files to write. A mapped key takes precedence over a usual key with the name of its file.
fn files(mut content: Files, rules: &Rules) -> Files {
    let mut files = Files::new();
    for (key, file) in &rules.keys {
        if let Some(bytes) = content.remove(key) {
            files.insert(file.clone(), bytes);
        }
    }
    for (key, bytes) in content {
        if KEYS.contains(&key.as_str()) {
            files.entry(key).or_insert(bytes);
        }
    }
    files
}

fn take(id: &Id, folder: Option<String>, files: Files, template: &NameTemplate) -> Choice {
    let folder = match folder {
        Some(folder) => check_folder(folder)
            .map_err(|bad| format!("{bad}; change the annotation {FOLDER_ANNOTATION}")),
        None => template
            .folder(&id.namespace, &id.name)
            .map_err(|bad| bad.to_string()),
    };
    match folder {
        Ok(folder) => Choice::Take { folder, files },
        Err(why) => Choice::Refuse(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn rules() -> Rules {
        Rules {
            template: NameTemplate::default(),
            configmap_template: NameTemplate::parse("{name}-cacert").unwrap(),
            keys: BTreeMap::new(),
            configmap_keys: CONFIGMAP_KEYS.map(str::to_owned).to_vec(),
        }
    }

    fn object(name: &str, type_: &str, keys: &[&str]) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                ..ObjectMeta::default()
            },
            type_: Some(type_.into()),
            data: Some(
                keys.iter()
                    .map(|key| ((*key).to_owned(), ByteString(key.as_bytes().to_vec())))
                    .collect(),
            ),
            ..Secret::default()
        }
    }

    /// The files, or the reason why there are none.
    fn chosen(name: &str, type_: &str, keys: &[&str]) -> String {
        shown(secret(object(name, type_, keys), &rules()), name)
    }

    fn shown(selected: Selected, expected: &str) -> String {
        match selected.choice {
            Choice::Take { folder, files } => {
                assert_eq!(folder, expected);
                files.into_keys().collect::<Vec<_>>().join(" ")
            }
            Choice::Skip(why) => format!("skipped: {why}"),
            Choice::Refuse(why) => format!("refused: {why}"),
        }
    }

    #[test]
    fn credentials_with_the_keys_of_every_convention_are_mirrored() {
        let tls = "kubernetes.io/tls";
        assert_eq!(chosen("a", "Opaque", &["cert", "key"]), "cert key");
        assert_eq!(
            chosen("a", "Opaque", &["cacert", "cert", "key"]),
            "cacert cert key"
        );
        assert_eq!(chosen("a", tls, &["tls.crt", "tls.key"]), "tls.crt tls.key");
        let all = ["ca.crl", "ca.crt", "tls.crt", "tls.key", "tls.ocsp-staple"];
        assert_eq!(chosen("a", tls, &all), all.join(" "));
        // As Istio's documentation makes them for mutual TLS.
        assert_eq!(
            chosen("a", "Opaque", &["ca.crt", "tls.crt", "tls.key"]),
            "ca.crt tls.crt tls.key"
        );
        assert_eq!(chosen("a-cacert", "Opaque", &["cacert"]), "cacert");
        assert_eq!(chosen("a-cacert", "Opaque", &["ca.crt"]), "ca.crt");
    }

    #[test]
    fn other_keys_are_not_written() {
        assert_eq!(
            chosen("a", "Opaque", &["cert", "key", "password"]),
            "cert key"
        );
    }

    #[test]
    fn secrets_that_are_not_credentials_are_skipped() {
        let pair = ["cert", "key"];
        for (name, type_, keys) in [
            ("istio-ca-secret", "Opaque", &pair[..]),
            ("prometheus-tls", "Opaque", &pair),
            ("a", "Opaque", &["cert", "key", "token"]),
            ("a", "kubernetes.io/service-account-token", &pair),
            ("a", "helm.sh/release.v1", &pair),
            ("a", "kubernetes.io/dockerconfigjson", &pair),
            ("a", "example.com/other", &pair),
            ("a", "Opaque", &["password"]),
            ("a", "Opaque", &["key"]),
            ("a", "Opaque", &[]),
        ] {
            let got = chosen(name, type_, keys);
            assert!(got.starts_with("skipped"), "{name} {type_}: {got}");
        }
    }

    #[test]
    fn half_a_pair_is_refused() {
        let got = chosen("a", "Opaque", &["cert"]);
        assert!(
            got.starts_with("refused: it has cert and lacks key"),
            "{got}"
        );
        let got = chosen("a", "Opaque", &["tls.crt"]);
        assert!(got.starts_with("refused: it has tls.crt"), "{got}");
    }

    #[test]
    fn keys_that_can_not_be_file_names_are_refused_and_the_others_used() {
        let keys = ["cert", "key", "../../etc/cron.d/x"];
        let selected = secret(object("a", "Opaque", &keys), &rules());
        assert!(matches!(&selected.choice, Choice::Take { files, .. } if files.len() == 2));
        assert_eq!(selected.bad_keys.len(), 1);
        assert!(selected.bad_keys[0].contains("path separator"));
    }

    #[test]
    fn mapped_keys_become_files_and_take_precedence_over_usual_keys() {
        let mut rules = rules();
        rules.keys = [("combined.pem", "tls.pem"), ("server.crt", "tls.crt")]
            .map(|(key, file)| (key.to_owned(), file.to_owned()))
            .into();
        let choose = |keys: &[&str]| shown(secret(object("a", "Opaque", keys), &rules), "a");
        assert_eq!(choose(&["combined.pem", "password"]), "tls.pem");
        assert!(choose(&["password"]).starts_with("skipped"));
        let both = secret(
            object("a", "Opaque", &["server.crt", "tls.crt", "tls.key"]),
            &rules,
        );
        let Choice::Take { files, .. } = both.choice else {
            panic!("not taken");
        };
        assert_eq!(*files["tls.crt"], b"server.crt");
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn an_annotation_sets_the_name_of_the_folder() {
        let annotated = |folder: &str| {
            let mut secret = object("istio-a", "Opaque", &["cert", "key"]);
            let annotations = [(FOLDER_ANNOTATION.to_owned(), folder.to_owned())];
            secret.metadata.annotations = Some(annotations.into());
            secret
        };
        assert_eq!(shown(secret(annotated("web"), &rules()), "web"), "cert key");
        for folder in ["../web", "", ".web", "istio-web"] {
            let got = shown(secret(annotated(folder), &rules()), folder);
            assert!(got.starts_with("refused"), "{got}");
            assert!(got.contains(FOLDER_ANNOTATION), "{got}");
        }
    }

    #[test]
    fn a_configmap_becomes_a_bundle() {
        let object = |data: &[(&str, &str)]| ConfigMap {
            metadata: ObjectMeta {
                name: Some("trust".into()),
                namespace: Some("ns".into()),
                ..ObjectMeta::default()
            },
            data: Some(
                data.iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            ),
            ..ConfigMap::default()
        };
        let both = object(&[
            ("trust-bundle.pem", "second"),
            ("ca.crt", "first"),
            ("x", "y"),
        ]);
        let Choice::Take { folder, files } = configmap(both, &rules()).choice else {
            panic!("not taken");
        };
        assert_eq!((folder.as_str(), files.len()), ("trust-cacert", 1));
        assert_eq!(*files["ca.crt"], b"first");
        let with_crl = object(&[("root-certs.pem", "A"), ("ca.crl", "L")]);
        assert_eq!(
            shown(configmap(with_crl, &rules()), "trust-cacert"),
            "ca.crl ca.crt"
        );
        let other = shown(configmap(object(&[("x", "y")]), &rules()), "");
        assert!(other.starts_with("skipped"), "{other}");
    }
}

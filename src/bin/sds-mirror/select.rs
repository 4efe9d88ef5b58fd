//! Which Secrets are mirrored, and what of them.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Secret;
use zeroize::{Zeroize, Zeroizing};

use crate::name::{NameTemplate, check_key, is_reserved};

/// The keys that a credential is made of; of all others nothing is written to disk.
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
/// Certificate and key of a pair, in Istio's convention and in Kubernetes'.
const PAIRS: [[&str; 2]; 2] = [["cert", "key"], ["tls.crt", "tls.key"]];
/// A bundle of CAs, likewise.
const BUNDLES: [&str; 2] = ["cacert", "ca.crt"];

/// Types that are never mirrored and that there may be many or large ones of: the API server is
/// asked to leave them out.
pub(crate) const LEAVE_OUT: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,\
    type!=kubernetes.io/dockerconfigjson,type!=bootstrap.kubernetes.io/token";

/// A Secret's place in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A server that is not what it seems must not forge a log line.
        write!(
            f,
            "{}/{}",
            self.namespace.escape_debug(),
            self.name.escape_debug()
        )
    }
}

/// Files of a folder by name; wiped when dropped.
pub(crate) type Files = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// What a Secret is to the mirror.
pub(crate) struct Selected {
    pub(crate) id: Id,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) choice: Choice,
    /// Keys that can't be file names, with the reason; the rest of the Secret is taken.
    pub(crate) bad_keys: Vec<String>,
}

/// Whether a Secret is mirrored.
pub(crate) enum Choice {
    /// It is, as these files in this folder.
    Take { folder: String, files: Files },
    /// It is none of the mirror's business.
    PassOver(&'static str),
    /// It should be, and can't be.
    Refuse(String),
}

/// Decides about a Secret. Whatever of its content is not taken is wiped.
pub(crate) fn select(secret: Secret, template: &NameTemplate) -> Selected {
    let metadata = secret.metadata;
    let id = Id {
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
    };
    let mut files: Files = secret
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, Zeroizing::new(value.0)))
        .collect();
    for mut text in secret.string_data.unwrap_or_default().into_values() {
        text.zeroize();
    }
    let has_token = files.contains_key("token");
    let bad_keys = files.keys().filter_map(|key| bad_key(key)).collect();
    files.retain(|key, _| KEYS.contains(&key.as_str()));
    let type_ = secret.type_.as_deref().unwrap_or("Opaque");
    Selected {
        choice: choose(&id, type_, has_token, files, template),
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

fn choose(id: &Id, type_: &str, has_token: bool, files: Files, template: &NameTemplate) -> Choice {
    if !matches!(type_, "Opaque" | "kubernetes.io/tls") {
        return Choice::PassOver("its type");
    }
    if is_reserved(&id.name) {
        return Choice::PassOver("its name begins with istio or prometheus");
    }
    if has_token {
        return Choice::PassOver("it has a key named token");
    }
    let has = |key: &str| files.contains_key(key);
    let pair = PAIRS.iter().any(|pair| pair.iter().all(|key| has(key)));
    if !pair && !BUNDLES.iter().any(|key| has(key)) {
        // A lone `key` is some other program's affair; a lone certificate was meant for this one.
        let lone = PAIRS.iter().find(|[certificate, _]| has(certificate));
        return match lone {
            Some([certificate, key]) => Choice::Refuse(format!(
                "it has {certificate} and lacks {key}; add it, or cacert for a bundle of CAs"
            )),
            None => Choice::PassOver("it holds no credential"),
        };
    }
    match template.folder(&id.namespace, &id.name) {
        Ok(folder) => Choice::Take { folder, files },
        Err(bad_name) => Choice::Refuse(bad_name.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn secret(name: &str, type_: &str, keys: &[&str]) -> Secret {
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

    /// The files taken, or the reason why none are.
    fn chosen(name: &str, type_: &str, keys: &[&str]) -> String {
        match select(secret(name, type_, keys), &NameTemplate::default()).choice {
            Choice::Take { folder, files } => {
                assert_eq!(folder, name);
                files.into_keys().collect::<Vec<_>>().join(" ")
            }
            Choice::PassOver(why) => format!("passed over: {why}"),
            Choice::Refuse(why) => format!("refused: {why}"),
        }
    }

    #[test]
    fn credentials_of_every_convention_are_taken() {
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
    fn other_keys_stay_in_the_cluster() {
        assert_eq!(
            chosen("a", "Opaque", &["cert", "key", "password"]),
            "cert key"
        );
    }

    #[test]
    fn what_is_no_credential_is_passed_over() {
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
            assert!(got.starts_with("passed over"), "{name} {type_}: {got}");
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
    fn keys_that_are_no_file_names_are_refused_and_the_rest_is_taken() {
        let keys = ["cert", "key", "../../etc/cron.d/x"];
        let selected = select(secret("a", "Opaque", &keys), &NameTemplate::default());
        assert!(matches!(&selected.choice, Choice::Take { files, .. } if files.len() == 2));
        assert_eq!(selected.bad_keys.len(), 1);
        assert!(selected.bad_keys[0].contains("path separator"));
    }
}

//! A part of a credential → an SDS resource: encoded once, versioned, wiped when dropped.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::credential::{Bundle, Pair};
use crate::proto::SECRET_TYPE_URL;
use crate::proto::encode::{Field, Value, message_len};

/// The name of a secret. Cheap to clone: the store and every stream hold the same one.
pub type Name = Arc<str>;

/// How much of the SHA-256 of a secret's content makes its version: 128 bits leave no room for an
/// accidental collision, which would hide a rotation from a client that reconnects.
const VERSION_BYTES: usize = 16;

/// A named SDS resource, ready to be sent.
pub struct Secret {
    name: Name,
    kind: Kind,
    version: Arc<str>,
    resource: Bytes,
    not_after: Option<SystemTime>,
    since: SystemTime,
    noticed: Instant,
}

/// What a secret is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A certificate chain and its private key.
    Certificate,
    /// CA certificates and revocation lists.
    TrustBundle,
}

impl Secret {
    /// The secret `name` made of a certificate pair.
    pub fn certificate(name: Name, pair: &Pair) -> Self {
        let body = Value::Message(vec![
            Field(1, inline_bytes(&pair.chain)),
            Field(2, inline_bytes(&pair.key)),
        ]);
        Self::new(
            name,
            Kind::Certificate,
            Field(2, body),
            Some(pair.facts.leaf.not_after),
        )
    }

    /// The secret `name` made of a trust bundle.
    pub fn trust_bundle(name: Name, bundle: &Bundle) -> Self {
        let mut fields = vec![Field(1, inline_bytes(&bundle.trusted_ca))];
        if let Some(crl) = &bundle.crl {
            fields.push(Field(7, inline_bytes(crl)));
        }
        let ends = bundle
            .facts
            .certificates
            .iter()
            .map(|ca| ca.not_after)
            .min();
        Self::new(
            name,
            Kind::TrustBundle,
            Field(4, Value::Message(fields)),
            ends,
        )
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What it is made of.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A hash of its content: the same on every machine and after every restart, so that a client
    /// that reconnects is told of a change, and only of a change.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// When the first of its certificates ends, that is the leaf or a CA.
    pub fn not_after(&self) -> Option<SystemTime> {
        self.not_after
    }

    /// Since when it is this version that is served.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// When the change of the files that it was made of was noticed.
    pub(crate) fn noticed_at(&self) -> Instant {
        self.noticed
    }

    /// Remembers when the change of the files was noticed that it is made of.
    pub(crate) fn noticed(self, noticed: Instant) -> Self {
        Self { noticed, ..self }
    }

    /// The encoded `google.protobuf.Any` that holds the `Secret` message. All clones share one
    /// buffer, which is wiped when the last one is dropped.
    pub(crate) fn resource(&self) -> &Bytes {
        &self.resource
    }

    fn new(name: Name, kind: Kind, body: Field<'_>, not_after: Option<SystemTime>) -> Self {
        let secret = vec![Field(1, Value::Bytes(name.as_bytes())), body];
        let any = [
            Field(1, Value::Bytes(SECRET_TYPE_URL.as_bytes())),
            Field(2, Value::Message(secret)),
        ];
        let mut encoded = Zeroizing::new(Vec::with_capacity(message_len(&any)));
        any.iter().for_each(|field| field.write(&mut encoded));
        let version = short_hex(&Sha256::digest(&*encoded));
        Self {
            name,
            kind,
            version: version.into(),
            resource: Bytes::from_owner(encoded),
            not_after,
            since: SystemTime::now(),
            noticed: Instant::now(),
        }
    }
}

impl Kind {
    /// The kind as a metric label and JSON value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::TrustBundle => "trust_bundle",
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A `DataSource` with the field `inline_bytes`.
fn inline_bytes(bytes: &[u8]) -> Value<'_> {
    Value::Message(vec![Field(2, Value::Bytes(bytes))])
}

/// As much of a SHA-256 hash as a version has, in lower-case hexadecimal.
pub(crate) fn short_hex(hash: &[u8]) -> String {
    hash.iter()
        .take(VERSION_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use prost::Message;

    use super::*;
    use crate::credential::{BundleFacts, CertificateFacts, PairFacts};
    use crate::proto::core::{DataSource, data_source::Specifier};
    use crate::proto::tls;

    /// A certificate secret with made-up content, for tests of what comes after.
    pub(crate) fn sample(name: &str, content: &str) -> Arc<Secret> {
        Arc::new(Secret::certificate(name.into(), &pair(content)))
    }

    /// A pair with made-up content.
    pub(crate) fn pair(content: &str) -> Pair {
        Pair {
            chain: format!("chain {content}").into_bytes(),
            key: Zeroizing::new(format!("key {content}").into_bytes()),
            facts: PairFacts {
                leaf: facts(),
                key_type: "P-256".into(),
                must_staple: false,
                files: vec!["tls.crt".into(), "tls.key".into()],
            },
        }
    }

    /// A trust bundle with made-up content.
    pub(crate) fn bundle(content: &str) -> Bundle {
        Bundle {
            trusted_ca: format!("ca {content}").into_bytes(),
            crl: None,
            facts: BundleFacts {
                certificates: vec![facts()],
                files: vec!["ca.crt".into()],
            },
        }
    }

    fn facts() -> CertificateFacts {
        CertificateFacts {
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            names: Vec::new(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
        }
    }

    fn inline(bytes: &[u8]) -> Option<DataSource> {
        Some(DataSource {
            specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
        })
    }

    fn decode(secret: &Secret) -> tls::Secret {
        let any = prost_types::Any::decode(secret.resource().clone()).unwrap();
        assert_eq!(any.type_url, SECRET_TYPE_URL);
        let decoded = tls::Secret::decode(&*any.value).unwrap();
        assert_eq!(
            decoded.encode_to_vec(),
            any.value,
            "not what prost would write"
        );
        decoded
    }

    #[test]
    fn a_pair_is_a_tls_certificate() {
        let secret = Secret::certificate("site".into(), &pair("one"));
        let expected = tls::Secret {
            name: "site".into(),
            r#type: Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
                certificate_chain: inline(b"chain one"),
                private_key: inline(b"key one"),
                ..Default::default()
            })),
        };
        assert_eq!(decode(&secret), expected);
    }

    #[test]
    fn a_bundle_is_a_validation_context() {
        let bundle = Bundle {
            trusted_ca: b"ca".to_vec(),
            crl: Some(b"crl".to_vec()),
            ..bundle("ca")
        };
        let secret = Secret::trust_bundle("site-cacert".into(), &bundle);
        let expected = tls::Secret {
            name: "site-cacert".into(),
            r#type: Some(tls::secret::Type::ValidationContext(
                tls::CertificateValidationContext {
                    trusted_ca: inline(b"ca"),
                    crl: inline(b"crl"),
                },
            )),
        };
        assert_eq!(decode(&secret), expected);
    }

    #[test]
    fn the_version_is_that_of_the_content() {
        let version = |content| sample("site", content).version().clone();
        assert_eq!(version("one"), version("one"));
        assert_ne!(version("one"), version("two"));
        assert_eq!(version("one").len(), 2 * VERSION_BYTES);
    }

    #[test]
    fn debug_output_holds_no_key() {
        let secret = sample("site", "one");
        assert!(!format!("{secret:?}").contains("key one"));
        assert!(!format!("{:?}", decode(&secret)).contains("key one"));
        assert!(!format!("{:?}", pair("one")).contains("key one"));
    }
}

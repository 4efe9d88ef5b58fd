//! A part of a credential → an SDS resource: encoded once, versioned, wiped when dropped.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::config::{Matcher, SanKind, TrustOptions};
use crate::credential::{
    Bundle, BundleFacts, CertificateFacts, Generic, Pair, PairFacts, Staple, StapleFacts,
    TicketKeys, hex_digits,
};
use crate::proto::SECRET_TYPE_URL;
use crate::proto::encode::{Field, Value, head_len, message_len, write_head};
use crate::text::Texts;
use crate::validity::Validity;

/// The name of a secret. Cheap to clone.
pub type Name = Arc<str>;

/// The first bytes of the SHA-256 of a secret's content; lower-case hexadecimal as text. With 128 bits, an
/// accidental collision, which would hide a rotation from a client that reconnects, is practically impossible.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Version([u8; 16]);

const SECOND: Duration = Duration::from_secs(1);

/// What a part of a credential is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A certificate chain and its private key.
    Certificate,
    /// CA certificates and revocation lists.
    TrustBundle,
    /// An OCSP response, which is sent with the certificate.
    OcspStaple,
    /// TLS session ticket keys.
    TicketKeys,
    /// Bytes that Envoy uses as they are.
    Generic,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Certificate,
        Self::TrustBundle,
        Self::OcspStaple,
        Self::TicketKeys,
        Self::Generic,
    ];

    /// The kind as a metric label and JSON value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::TrustBundle => "trust_bundle",
            Self::OcspStaple => "ocsp_staple",
            Self::TicketKeys => "session_ticket_keys",
            Self::Generic => "generic",
        }
    }

    /// The field of Envoy's `Secret` message; a staple is a field of the certificate's message.
    fn field(self) -> u32 {
        match self {
            Self::Certificate | Self::OcspStaple => 2,
            Self::TicketKeys => 3,
            Self::TrustBundle => 4,
            Self::Generic => 5,
        }
    }

    /// Whether the content must only be visible to the client.
    pub fn is_confidential(self) -> bool {
        matches!(self, Self::Certificate | Self::TicketKeys | Self::Generic)
    }
}

/// What may be shown of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Facts {
    /// Of a certificate pair.
    Certificate(PairFacts),
    /// Of a trust bundle.
    TrustBundle(BundleFacts),
    /// Of an OCSP staple.
    OcspStaple(StapleFacts),
    /// The files of session ticket keys, or of a generic secret.
    Files(Texts),
}

impl Facts {
    /// The names of the files that it came from.
    pub fn files(&self) -> &Texts {
        match self {
            Self::Certificate(facts) => &facts.files,
            Self::TrustBundle(facts) => &facts.files,
            Self::OcspStaple(facts) => &facts.files,
            Self::Files(files) => files,
        }
    }

    /// The certificates whose dates count: the leaf, or the CA certificates.
    pub fn certificates(&self) -> &[CertificateFacts] {
        match self {
            Self::Certificate(facts) => std::slice::from_ref(&facts.leaf),
            Self::TrustBundle(facts) => &facts.certificates,
            Self::OcspStaple(_) | Self::Files(_) => &[],
        }
    }

    /// The period in which each certificate, or the staple, is valid.
    pub fn validities(&self) -> Vec<Validity> {
        match self {
            Self::OcspStaple(staple) => staple.validity().into_iter().collect(),
            _ => {
                let certificates = self.certificates().iter();
                certificates.map(CertificateFacts::validity).collect()
            }
        }
    }

    /// The next expiry; or the last one, if all have passed. An expired CA next to valid ones requires no action.
    pub fn not_after(&self, now: SystemTime) -> Option<SystemTime> {
        let ends = || self.certificates().iter().map(|facts| facts.not_after);
        ends().filter(|end| *end >= now).min().or(ends().max())
    }

    /// The beginning of the leaf, or of the first CA certificate.
    pub fn not_before(&self) -> Option<SystemTime> {
        let certificates = self.certificates().iter();
        certificates.map(|facts| facts.not_before).min()
    }

    /// The certificate whose dates count at `now`: the leaf; or of the valid CA certificates the one that expires
    /// first, otherwise the next one to become valid, otherwise the last one that expired.
    pub fn current(&self, now: SystemTime) -> Option<&CertificateFacts> {
        let all = self.certificates();
        let ahead = all.iter().filter(|facts| facts.not_after >= now);
        let first = ahead.min_by_key(|facts| match facts.not_before <= now {
            true => (false, facts.not_after),
            false => (true, facts.not_before),
        });
        first.or_else(|| all.iter().max_by_key(|facts| facts.not_after))
    }

    /// Whether one of its certificates expires soon enough for a warning; see [`Validity::is_expiring`].
    ///
    /// [`Validity::is_expiring`]: crate::validity::Validity::is_expiring
    pub fn is_expiring(&self, now: SystemTime, warn_days: u32) -> bool {
        let mut all = self.certificates().iter();
        all.any(|facts| facts.validity().is_expiring(now, warn_days))
    }

    /// The dates at which it becomes valid, or is no longer valid.
    pub(crate) fn turning_points(&self) -> Vec<SystemTime> {
        match self {
            Self::OcspStaple(facts) => facts.next_update.into_iter().collect(),
            _ => {
                // A certificate is valid to the end of the second that it names.
                let dates = |facts: &CertificateFacts| [facts.not_before, facts.not_after + SECOND];
                self.certificates().iter().flat_map(dates).collect()
            }
        }
    }

    /// Whether a client accepts it at `now`, by its dates.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.not_before().is_none_or(|start| start <= now)
            && self.not_after(now).is_none_or(|end| end >= now)
    }
}

/// A part of a credential: the fields of its SDS message, encoded, and what may be shown of it.
pub struct Part {
    kind: Kind,
    fields: Bytes,
    version: Version,
    facts: Facts,
    provisional: bool,
}

impl Part {
    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A hash of its content.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What may be shown of it.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether a better part may follow, such as a full chain instead of only the leaf.
    pub fn is_provisional(&self) -> bool {
        self.provisional
    }

    /// The `Secret` message with only this part, to be stored outside of the process.
    pub(crate) fn message(&self, name: &str) -> Zeroizing<Vec<u8>> {
        let name = Field(1, Value::Bytes(name.as_bytes()));
        let head = head_len(self.kind.field(), self.fields.len());
        let mut message = Zeroizing::new(Vec::with_capacity(name.len() + head + self.fields.len()));
        name.write(&mut message);
        write_head(self.kind.field(), self.fields.len(), &mut message);
        message.extend_from_slice(&self.fields);
        message
    }

    fn new(kind: Kind, fields: &[Field<'_>], facts: Facts) -> Self {
        let mut encoded = Zeroizing::new(Vec::with_capacity(message_len(fields)));
        fields.iter().for_each(|field| field.write(&mut encoded));
        let mut hash = Sha256::new_with_prefix(kind.as_str());
        hash.update(&*encoded);
        Self {
            kind,
            fields: Bytes::from_owner(encoded),
            version: Version::of(hash),
            facts,
            provisional: false,
        }
    }
}

impl From<Pair> for Part {
    fn from(pair: Pair) -> Self {
        let fields = [
            Field(1, inline_bytes(&pair.chain)),
            Field(2, inline_bytes(&pair.key)),
        ];
        let facts = Facts::Certificate(pair.facts);
        Self {
            provisional: pair.lesser_chain,
            ..Self::new(Kind::Certificate, &fields, facts)
        }
    }
}

impl From<Bundle> for Part {
    fn from(bundle: Bundle) -> Self {
        let mut fields = vec![Field(1, inline_bytes(&bundle.trusted_ca))];
        if let Some(crl) = &bundle.crl {
            fields.push(Field(7, inline_bytes(crl)));
        }
        fields.extend(trust_options(&bundle.options));
        Self::new(Kind::TrustBundle, &fields, Facts::TrustBundle(bundle.facts))
    }
}

impl From<Staple> for Part {
    fn from(staple: Staple) -> Self {
        let field = Field(4, inline_bytes(&staple.response));
        Self::new(Kind::OcspStaple, &[field], Facts::OcspStaple(staple.facts))
    }
}

impl From<TicketKeys> for Part {
    fn from(keys: TicketKeys) -> Self {
        let fields: Vec<_> = keys
            .keys
            .iter()
            .map(|key| Field(1, inline_bytes(key)))
            .collect();
        Self::new(Kind::TicketKeys, &fields, Facts::Files(keys.files))
    }
}

impl From<Generic> for Part {
    fn from(generic: Generic) -> Self {
        let field = Field(1, inline_bytes(&generic.secret));
        Self::new(Kind::Generic, &[field], Facts::Files(generic.files))
    }
}

/// The content of an SDS resource, which many names may share: a part, and the staple of a certificate.
pub struct Secret {
    part: Arc<Part>,
    stapled: Option<Box<Stapled>>,
    since: SystemTime,
    noticed: Instant,
}

/// What a staple adds to a secret.
struct Stapled {
    staple: Arc<Part>,
    /// The version of both.
    version: Version,
}

impl Secret {
    /// The secret made of `part`, and of the staple that goes with a certificate. The change of the files was
    /// noticed at `noticed`.
    pub fn new(part: Arc<Part>, staple: Option<Arc<Part>>, noticed: Instant) -> Self {
        let stapled = staple.map(|staple| {
            let mut hash = Sha256::new_with_prefix(part.version.to_string());
            hash.update(staple.version.to_string());
            let version = Version::of(hash);
            Box::new(Stapled { staple, version })
        });
        Self {
            part,
            stapled,
            since: SystemTime::now(),
            noticed,
        }
    }

    /// The kind of its part.
    pub fn kind(&self) -> Kind {
        self.part.kind
    }

    /// A hash of its content: the same on every machine and after every restart, so that a client
    /// that reconnects is sent a change, and only a change.
    pub fn version(&self) -> Version {
        let stapled = self.stapled.as_ref();
        stapled.map_or(self.part.version, |stapled| stapled.version)
    }

    /// What may be shown of it.
    pub fn facts(&self) -> &Facts {
        &self.part.facts
    }

    /// The part that it is made of.
    pub fn part(&self) -> &Arc<Part> {
        &self.part
    }

    /// The staple that is sent with a certificate.
    pub fn staple(&self) -> Option<&Arc<Part>> {
        self.stapled.as_ref().map(|stapled| &stapled.staple)
    }

    /// Since when this version is served.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// When the change of the files that it was made of was noticed.
    pub(crate) fn noticed(&self) -> Instant {
        self.noticed
    }

    /// The bytes of the `google.protobuf.Any` that holds the `Secret` message under that name.
    pub(crate) fn resource_len(&self, name: &str) -> usize {
        let message = self.message_len(name);
        Self::type_url().len() + head_len(2, message) + message
    }

    /// Appends the beginning of that `Any`, up to the fields in [`Self::fields`], which end it.
    pub(crate) fn write_resource_head(&self, name: &str, buffer: &mut Vec<u8>) {
        Self::type_url().write(buffer);
        write_head(2, self.message_len(name), buffer);
        Field(1, Value::Bytes(name.as_bytes())).write(buffer);
        write_head(self.kind().field(), self.fields_len(), buffer);
    }

    /// The encoded content. All clones share one buffer, which is wiped when the last one is dropped.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Bytes> {
        let parts = [Some(&self.part), self.staple()];
        parts.into_iter().flatten().map(|part| &part.fields)
    }

    fn message_len(&self, name: &str) -> usize {
        let fields = self.fields_len();
        Field(1, Value::Bytes(name.as_bytes())).len()
            + head_len(self.kind().field(), fields)
            + fields
    }

    fn fields_len(&self) -> usize {
        self.fields().map(Bytes::len).sum()
    }

    fn type_url() -> Field<'static> {
        Field(1, Value::Bytes(SECRET_TYPE_URL.as_bytes()))
    }
}

impl Version {
    /// The version of what was hashed.
    pub(crate) fn of(hash: Sha256) -> Self {
        let hash: [u8; 32] = hash.finalize().into();
        Self(std::array::from_fn(|at| hash[at]))
    }

    /// Its text, without an allocation: each delivery has it twice, in the message and in the audit line.
    pub(crate) fn digits(self) -> Digits {
        let mut text = [0; 32];
        for (digits, byte) in text.chunks_exact_mut(2).zip(self.0) {
            digits.copy_from_slice(&hex_digits(byte));
        }
        Digits(text)
    }
}

/// The text of a [`Version`].
pub(crate) struct Digits([u8; 32]);

impl Deref for Digits {
    type Target = str;

    fn deref(&self) -> &str {
        // They are ASCII.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.digits())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq<str> for Version {
    fn eq(&self, text: &str) -> bool {
        *self.digits() == *text
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part")
            .field("kind", &self.kind)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("kind", &self.kind())
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

/// The fields of a `CertificateValidationContext` for the configured options, with Envoy's numbers.
fn trust_options(options: &TrustOptions) -> Vec<Field<'_>> {
    let hashes = options.certificate_hash.iter().map(|hash| (2, &hash.0));
    let keys = options.certificate_spki.iter().map(|key| (3, &key.0));
    let mut fields: Vec<Field<'_>> = Vec::new();
    for (number, pin) in hashes.chain(keys) {
        fields.push(Field(number, Value::Bytes(pin.as_bytes())));
    }
    if options.allow_expired_certificate {
        fields.push(Field(8, Value::Number(1)));
    }
    if options.only_verify_leaf_cert_crl {
        fields.push(Field(14, Value::Number(1)));
    }
    for name in &options.subject_alt_names {
        let kind = match name.kind {
            SanKind::Email => 1,
            SanKind::Dns => 2,
            SanKind::Uri => 3,
            SanKind::IpAddress => 4,
        };
        let matcher = match &name.matcher {
            Matcher::Exact(name) => Field(1, Value::Bytes(name.as_bytes())),
            Matcher::Prefix(start) => Field(2, Value::Bytes(start.as_bytes())),
            Matcher::Suffix(end) => Field(3, Value::Bytes(end.as_bytes())),
        };
        let matcher = Field(2, Value::Message(vec![matcher]));
        let fields_of_name = vec![Field(1, Value::Number(kind)), matcher];
        fields.push(Field(15, Value::Message(fields_of_name)));
    }
    if let Some(depth) = options.max_verify_depth {
        let depth = Field(1, Value::Number(u64::from(depth)));
        fields.push(Field(16, Value::Message(vec![depth])));
    }
    fields
}

/// A `DataSource` with the field `inline_bytes`.
fn inline_bytes(bytes: &[u8]) -> Value<'_> {
    Value::Message(vec![Field(2, Value::Bytes(bytes))])
}

#[cfg(test)]
pub(crate) mod tests {
    use prost::Message;

    use super::*;
    use crate::credential::Fingerprint;
    use crate::credential::key::KeyType;
    use crate::proto::core::{DataSource, data_source::Specifier};
    use crate::proto::tls::{self, secret::Type};

    /// A certificate secret with made-up content, for tests of what comes after.
    pub(crate) fn sample(content: &str) -> Arc<Secret> {
        Arc::new(secret(pair(content)))
    }

    /// A pair with made-up content.
    pub(crate) fn pair(content: &str) -> Pair {
        Pair {
            chain: format!("chain {content}").into_bytes(),
            key: Zeroizing::new(format!("key {content}").into_bytes()),
            lesser_chain: false,
            facts: PairFacts {
                leaf: facts("", &[]),
                intermediates: Box::default(),
                key_type: KeyType::P256,
                must_staple: false,
                files: Texts::from_iter(["tls.crt", "tls.key"]),
                chain: Box::new([Fingerprint::of(content.as_bytes())]),
            },
        }
    }

    /// A trust bundle with made-up content.
    pub(crate) fn bundle(content: &str) -> Bundle {
        Bundle {
            trusted_ca: format!("ca {content}").into_bytes(),
            crl: None,
            options: Arc::default(),
            facts: BundleFacts {
                certificates: Box::new([facts("", &[])]),
                files: Texts::from_iter(["ca.crt"]),
            },
        }
    }

    /// A staple with made-up content, about the leaf of [`pair`].
    pub(crate) fn staple(content: &str) -> Staple {
        Staple {
            response: format!("staple {content}").into_bytes(),
            facts: StapleFacts {
                issuer: String::new(),
                serial: String::new(),
                this_update: SystemTime::UNIX_EPOCH,
                next_update: None,
                files: Texts::from_iter(["ocsp.der"]),
                fingerprint: Fingerprint::of(content.as_bytes()),
            },
        }
    }

    /// The facts of a certificate with this serial number and these names.
    pub(crate) fn facts(serial: &str, names: &[String]) -> CertificateFacts {
        let [subject, issuer, common_name] = [const { String::new() }; 3];
        let epoch = Validity {
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
        };
        let texts = [subject, issuer, serial.to_owned(), common_name];
        CertificateFacts::new(texts, names.to_vec(), epoch)
    }

    fn secret(part: impl Into<Part>) -> Secret {
        Secret::new(Arc::new(part.into()), None, Instant::now())
    }

    fn inline(bytes: &[u8]) -> Option<DataSource> {
        Some(DataSource {
            specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
        })
    }

    fn encode(secret: &Secret, name: &str) -> Vec<u8> {
        let mut any = Vec::new();
        secret.write_resource_head(name, &mut any);
        secret
            .fields()
            .for_each(|fields| any.extend_from_slice(fields));
        assert_eq!(any.len(), secret.resource_len(name));
        any
    }

    fn decode(secret: &Secret, name: &str) -> Option<Type> {
        let any = prost_types::Any::decode(&*encode(secret, name)).unwrap();
        assert_eq!(any.type_url, SECRET_TYPE_URL);
        if secret.staple().is_none() {
            assert_eq!(any.value, *secret.part().message(name));
        }
        let decoded = tls::Secret::decode(&*any.value).unwrap();
        assert_eq!(decoded.name, name);
        assert_eq!(decoded.encode_to_vec(), any.value, "not canonical");
        decoded.r#type
    }

    #[test]
    fn each_kind_is_encoded_as_envoy_decodes_it() {
        let bundle = Bundle {
            crl: Some(b"crl".to_vec()),
            ..bundle("")
        };
        let certificate = |ocsp_staple| {
            Type::TlsCertificate(tls::TlsCertificate {
                certificate_chain: inline(b"chain 1"),
                private_key: inline(b"key 1"),
                ocsp_staple,
                ..Default::default()
            })
        };
        let stapled = Secret::new(
            Arc::new(pair("1").into()),
            Some(Arc::new(staple("s").into())),
            Instant::now(),
        );
        let keys = TicketKeys {
            keys: vec![Zeroizing::new(vec![1]), Zeroizing::new(vec![2])],
            files: Texts::default(),
        };
        let generic = Generic {
            secret: Zeroizing::new(b"token".to_vec()),
            files: Texts::default(),
        };
        for (secret, expected) in [
            (secret(pair("1")), certificate(None)),
            (stapled, certificate(inline(b"staple s"))),
            (
                secret(bundle),
                Type::ValidationContext(tls::CertificateValidationContext {
                    trusted_ca: inline(b"ca "),
                    crl: inline(b"crl"),
                }),
            ),
            (
                secret(keys),
                Type::SessionTicketKeys(tls::TlsSessionTicketKeys {
                    keys: [inline(&[1]), inline(&[2])].into_iter().flatten().collect(),
                }),
            ),
            (
                secret(generic),
                Type::GenericSecret(tls::GenericSecret {
                    secret: inline(b"token"),
                }),
            ),
        ] {
            assert_eq!(decode(&secret, "site"), Some(expected));
        }
    }

    #[test]
    fn the_version_depends_only_on_the_content() {
        let version = |content| sample(content).version();
        assert_eq!(version("one"), version("one"));
        assert_ne!(version("one"), version("two"));
        assert_eq!(version("one").to_string().len(), 32);
        let stapled = |content| {
            let staple = Arc::new(Part::from(staple(content)));
            let secret = Secret::new(Arc::new(pair("one").into()), Some(staple), Instant::now());
            secret.version()
        };
        assert_ne!(stapled("a"), version("one"));
        assert_ne!(stapled("a"), stapled("b"));
    }

    #[test]
    fn debug_output_contains_no_key() {
        let secret = sample("one");
        for text in [
            format!("{secret:?}"),
            format!("{:?}", secret.part()),
            format!("{:?}", decode(&secret, "site")),
            format!("{:?}", pair("one")),
        ] {
            assert!(!text.contains("key one"), "{text}");
        }
    }
}

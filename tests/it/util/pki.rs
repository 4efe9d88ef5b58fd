//! Certificates: authorities, and identities that they issue.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

/// A certificate authority.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// The intermediate's own certificate, for the chains of what it issues; empty for a root.
    chain: String,
}

/// A certificate chain, leaf first, with its key: both PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) chain: String,
    pub(crate) key: String,
    /// Only the leaf.
    pub(crate) leaf: String,
    /// The leaf, DER: what a handshake shows.
    pub(crate) der: Vec<u8>,
}

impl Ca {
    /// A new root with this name.
    pub(crate) fn new(name: &str) -> Self {
        Self::with_key(name, KeyPair::generate().unwrap())
    }

    /// As [`new`](Self::new), with this key.
    pub(crate) fn with_key(name: &str, key: KeyPair) -> Self {
        let params = ca_params(name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
            chain: String::new(),
        }
    }

    /// An intermediate authority, whose certificate goes into the chains of what it issues.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name);
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            chain: format!("{pem}{}", self.chain),
            pem,
        }
    }

    /// Its certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Its private key.
    pub(crate) fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The certificates between a leaf of this authority and the root.
    pub(crate) fn intermediates(&self) -> &str {
        &self.chain
    }

    /// A server's identity for `names`, with a P-256 key.
    pub(crate) fn server(&self, names: &[&str]) -> Identity {
        self.server_with(names, |_| ())
    }

    /// As [`server`](Self::server), with its parameters changed by `change`.
    pub(crate) fn server_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = leaf_params(names, ExtendedKeyUsagePurpose::ServerAuth);
        change(&mut params);
        self.issue(&params, &KeyPair::generate().unwrap())
    }

    /// A client's identity.
    pub(crate) fn client(&self, name: &str) -> Identity {
        let params = leaf_params(&[name], ExtendedKeyUsagePurpose::ClientAuth);
        self.issue(&params, &KeyPair::generate().unwrap())
    }

    /// Issues a certificate for `key`.
    pub(crate) fn issue(&self, params: &CertificateParams, key: &KeyPair) -> Identity {
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        let leaf = certificate.pem();
        Identity {
            chain: format!("{leaf}{}", self.chain),
            key: key.serialize_pem(),
            leaf,
            der: certificate.der().to_vec(),
        }
    }
}

/// The parameters of a leaf for `names`; the first one is its common name too.
pub(crate) fn leaf_params(names: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, names[0].as_str());
    params.extended_key_usages = vec![usage];
    params
}

/// The extension of a certificate that must be served with an OCSP staple (RFC 7633).
pub(crate) fn must_staple_feature() -> CustomExtension {
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![48, 3, 2, 1, 5])
}

/// The parameters of an authority.
pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

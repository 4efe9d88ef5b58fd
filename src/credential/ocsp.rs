//! OCSP responses, parsed as strictly as by Envoy, which has its own parser. That parser skips the signature, among
//! other things; it is verified here.

use std::time::SystemTime;

use x509_parser::asn1_rs::FromDer;
use x509_parser::prelude::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::der::{Der, tag};
use super::x509::{X509, is_signed};

const BASIC: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x30\x01\x01";
const OCSP_SIGNING: &[u8] = b"\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x09";
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];

/// An OCSP response about one certificate.
pub(crate) struct Response<'a> {
    pub(crate) status: Status,
    /// The identifier of the hash algorithm of the hashes below, without tag and length.
    pub(crate) hash: &'a [u8],
    /// The hash of the issuer's distinguished name.
    pub(crate) issuer_name_hash: &'a [u8],
    pub(crate) serial: &'a [u8],
    pub(crate) this_update: SystemTime,
    pub(crate) next_update: Option<SystemTime>,
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    /// The responder's certificates.
    certificates: Vec<&'a [u8]>,
}

/// The status that the responder reports for the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Good,
    Revoked(SystemTime),
    Unknown,
}

/// Why a response can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It can't be parsed.
    Broken,
    /// The responder had no answer.
    NoAnswer,
    /// It is about several certificates, or none.
    NotOne,
}

impl<'a> Response<'a> {
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, Unusable> {
        let (status, basic) = outer(der).ok_or(Unusable::Broken)?;
        if status != [0] {
            return Err(Unusable::NoAnswer);
        }
        let basic = basic.ok_or(Unusable::Broken)?;
        Self::basic(basic).ok_or(Unusable::Broken)?
    }

    fn basic(mut basic: Der<'a>) -> Option<Result<Self, Unusable>> {
        let data = basic.whole(tag::SEQUENCE)?;
        let algorithm = basic.whole(tag::SEQUENCE)?.all;
        let (_, signature) = basic.take(tag::BIT_STRING)?.0.split_first()?;
        let mut certificates = Vec::new();
        if let Some(mut all) = basic.take(0xa0) {
            let mut list = all.sequence()?;
            while !list.is_empty() {
                certificates.push(list.any()?.all);
            }
        }
        basic.end()?;

        let mut tbs = Der(data.content);
        tbs.take(0xa0);
        if tbs.take(0xa1).is_none() {
            tbs.take(0xa2)?;
        }
        tbs.time()?;
        let mut responses = tbs.sequence()?;
        let Some(mut single) = responses.sequence() else {
            return Some(Err(Unusable::NotOne));
        };
        if !responses.is_empty() {
            return Some(Err(Unusable::NotOne));
        }
        let mut id = single.sequence()?;
        let hash = id.sequence()?.oid()?;
        let issuer_name_hash = id.take(tag::OCTET_STRING)?.0;
        id.take(tag::OCTET_STRING)?;
        let serial = id.integer()?;
        id.end()?;
        let status = status(&mut single)?;
        let this_update = single.time()?;
        let next_update = match single.take(0xa0) {
            Some(mut time) => Some(time.time()?),
            None => None,
        };
        Some(Ok(Self {
            status,
            hash,
            issuer_name_hash,
            serial,
            this_update,
            next_update,
            signed: data.all,
            algorithm,
            signature,
            certificates,
        }))
    }

    /// Whether it was signed with the key of `issuer`, or by a responder that the issuer has authorized. `None` if
    /// that can't be verified here.
    pub(crate) fn is_by(&self, issuer: &SubjectPublicKeyInfo<'_>) -> Option<bool> {
        let by = |key: &SubjectPublicKeyInfo<'_>| {
            let (_, algorithm) = AlgorithmIdentifier::from_der(self.algorithm).ok()?;
            is_signed(self.signed, &algorithm, self.signature, key)
        };
        let direct = by(issuer);
        let delegates = self.certificates.iter().filter_map(|der| X509::parse(der));
        let delegates = delegates.filter(|delegate| {
            let usage = delegate.extension(EXTENDED_KEY_USAGE).unwrap_or_default();
            usage
                .windows(OCSP_SIGNING.len())
                .any(|id| id == OCSP_SIGNING)
        });
        let all = delegates.map(|delegate| match delegate.signed.is_by(issuer) {
            Some(true) => by(&delegate.key),
            other => other,
        });
        all.fold(direct, |so_far, next| match (so_far, next) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (None, _) | (_, None) => None,
            _ => Some(false),
        })
    }
}

/// The status of the response, and the basic response in it.
fn outer(der: &[u8]) -> Option<(&[u8], Option<Der<'_>>)> {
    let mut all = Der(der);
    let mut response = all.sequence()?;
    all.end()?;
    let status = response.take(tag::ENUMERATED)?.0;
    let Some(mut bytes) = response.take(0xa0) else {
        return Some((status, None));
    };
    let mut bytes = bytes.sequence()?;
    let is_basic = bytes.oid()? == BASIC;
    let mut basic = bytes.take(tag::OCTET_STRING)?;
    bytes.end()?;
    response.end()?;
    let basic = basic.sequence()?;
    is_basic.then_some((status, Some(basic)))
}

fn status(single: &mut Der<'_>) -> Option<Status> {
    let element = single.any()?;
    match element.tag {
        0x80 => Some(Status::Good),
        0xa1 => Der(element.content).time().map(Status::Revoked),
        0x82 => Some(Status::Unknown),
        _ => None,
    }
}

//! Decrypts private keys and keystores.

use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use md5::Md5;
use p12_keystore::Pkcs12Archive;
use p12_keystore::error::Error as KeystoreError;
use pkcs8::der::Decode;
use pkcs8::pkcs5::pbes2::{self, Kdf};
use pkcs12::kdf::{Pkcs12KeyType, derive_key_utf8};
use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

use super::der::{Der, tag};

/// Maximum iterations for a password, which take about a second.
const MAX_ITERATIONS: u32 = 2_000_000;
/// 128 × N × r, in bytes.
const MAX_SCRYPT_MEMORY: u64 = 64 << 20;
const MAX_SCRYPT_LANES: u16 = 16;

const PBES2: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d";
const MD5_DES: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x03";
const SHA1_DES: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0a";
const SHA1_3DES: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01\x03";
/// scrypt, as part of PBES2.
const SCRYPT: &[u8] = b"\x2b\x06\x01\x04\x01\xda\x47\x04\x0b";

/// Why a private key or a keystore can't be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The password is wrong, or the content is damaged: these can't be distinguished.
    WrongPassword,
    /// This kind of encryption is not supported.
    Unsupported,
    /// The password would need too many iterations, or too much memory.
    TooCostly,
    /// It is malformed.
    Broken,
}

/// A private key, PKCS#8 in DER, and all certificates that were found with it.
pub(crate) struct Keystore {
    pub(crate) keys: Vec<Zeroizing<Vec<u8>>>,
    pub(crate) certificates: Vec<Vec<u8>>,
}

/// Decrypts a PKCS#8 private key.
pub(crate) fn decrypt(der: &[u8], password: &[u8]) -> Result<Zeroizing<Vec<u8>>, Closed> {
    let Encrypted {
        scheme,
        parameters,
        mut data,
    } = Encrypted::parse(der).ok_or(Closed::Broken)?;
    let length = match scheme {
        PBES2 => pbes2(parameters, password, &mut data)?,
        MD5_DES => {
            let (salt, rounds) = salt_and_rounds(parameters)?;
            let [key, iv] = pbkdf1::<Md5>(password, salt, rounds);
            unlock::<cbc::Decryptor<des::Des>>(&key, &iv, &mut data)?
        }
        SHA1_DES => {
            let (salt, rounds) = salt_and_rounds(parameters)?;
            let [key, iv] = pbkdf1::<Sha1>(password, salt, rounds);
            unlock::<cbc::Decryptor<des::Des>>(&key, &iv, &mut data)?
        }
        SHA1_3DES => {
            let (salt, rounds) = salt_and_rounds(parameters)?;
            let password = std::str::from_utf8(password).map_err(|_| Closed::WrongPassword)?;
            let rounds = i32::try_from(rounds).map_err(|_| Closed::TooCostly)?;
            let derive = |kind, length| {
                let bytes = derive_key_utf8::<Sha1>(password, salt, kind, rounds, length);
                bytes.map(Zeroizing::new).map_err(|_| Closed::Broken)
            };
            let key = derive(Pkcs12KeyType::EncryptionKey, 24)?;
            let iv = derive(Pkcs12KeyType::Iv, 8)?;
            unlock::<cbc::Decryptor<des::TdesEde3>>(&key, &iv, &mut data)?
        }
        _ => return Err(Closed::Unsupported),
    };
    data.truncate(length);
    // Otherwise, a wrong password would go unnoticed once in 256 times.
    let is_key = Der(&data).sequence().and_then(|mut key| key.integer());
    match is_key.is_some() {
        true => Ok(data),
        false => Err(Closed::WrongPassword),
    }
}

/// Opens a PKCS#12 keystore.
pub(crate) fn open(der: &[u8], password: &[u8]) -> Result<Keystore, Closed> {
    let password = std::str::from_utf8(password).map_err(|_| Closed::WrongPassword)?;
    // The library would allow it a gigabyte.
    if der.windows(SCRYPT.len()).any(|window| window == SCRYPT) {
        return Err(Closed::Unsupported);
    }
    let archive = Pkcs12Archive::from_pkcs12(der, password).map_err(|error| match error {
        KeystoreError::MacError(_) | KeystoreError::UnpadError | KeystoreError::Pkcs5Error(_) => {
            Closed::WrongPassword
        }
        KeystoreError::UnsupportedEncryptionScheme
        | KeystoreError::UnsupportedMacAlgorithm
        | KeystoreError::UnsupportedContentType
        | KeystoreError::UnsupportedCertificateType => Closed::Unsupported,
        KeystoreError::InvalidParameters => Closed::TooCostly,
        _ => Closed::Broken,
    })?;
    let certificates = archive.certs.iter();
    Ok(Keystore {
        keys: archive
            .keys
            .iter()
            .map(|bag| Zeroizing::new(bag.key.as_der().to_vec()))
            .collect(),
        certificates: certificates.map(|bag| bag.cert.as_der().to_vec()).collect(),
    })
}

/// PKCS#8's EncryptedPrivateKeyInfo.
struct Encrypted<'a> {
    scheme: &'a [u8],
    parameters: &'a [u8],
    data: Zeroizing<Vec<u8>>,
}

impl<'a> Encrypted<'a> {
    fn parse(der: &'a [u8]) -> Option<Self> {
        let mut all = Der(der).sequence()?;
        let mut algorithm = all.sequence()?;
        let scheme = algorithm.oid()?;
        let data = all.take(tag::OCTET_STRING)?.0;
        all.end()?;
        Some(Self {
            scheme,
            parameters: algorithm.0,
            data: Zeroizing::new(data.to_vec()),
        })
    }
}

fn pbes2(parameters: &[u8], password: &[u8], data: &mut [u8]) -> Result<usize, Closed> {
    let parameters = pbes2::Parameters::from_der(parameters).map_err(|_| Closed::Unsupported)?;
    let is_cheap = match &parameters.kdf {
        Kdf::Pbkdf2(kdf) => kdf.iteration_count <= MAX_ITERATIONS,
        Kdf::Scrypt(kdf) => {
            let memory = kdf.cost_parameter.checked_mul(u64::from(kdf.block_size));
            let memory = memory.and_then(|memory| memory.checked_mul(128));
            memory.is_some_and(|memory| memory <= MAX_SCRYPT_MEMORY)
                && kdf.parallelization <= MAX_SCRYPT_LANES
        }
        _ => return Err(Closed::Unsupported),
    };
    if !is_cheap {
        return Err(Closed::TooCostly);
    }
    let plain = parameters.decrypt_in_place(password, data);
    Ok(plain.map_err(|_| Closed::WrongPassword)?.len())
}

fn salt_and_rounds(parameters: &[u8]) -> Result<(&[u8], u32), Closed> {
    let read = || {
        let mut parameters = Der(parameters).sequence()?;
        let salt = parameters.take(tag::OCTET_STRING)?.0;
        let rounds = parameters.integer()?;
        let rounds = rounds.iter().try_fold(0_u32, |all, byte| {
            all.checked_mul(256)?.checked_add(u32::from(*byte))
        });
        Some((salt, rounds.unwrap_or(u32::MAX)))
    };
    match read() {
        Some((_, rounds)) if rounds > MAX_ITERATIONS => Err(Closed::TooCostly),
        Some(found) => Ok(found),
        None => Err(Closed::Broken),
    }
}

/// PBKDF1: a key of eight bytes, and an initialization vector of the same length.
fn pbkdf1<D: Digest>(password: &[u8], salt: &[u8], rounds: u32) -> [Zeroizing<Vec<u8>>; 2] {
    let mut hash = Zeroizing::new(
        D::new()
            .chain_update(password)
            .chain_update(salt)
            .finalize()
            .to_vec(),
    );
    for _ in 1..rounds {
        hash = Zeroizing::new(D::digest(&*hash).to_vec());
    }
    [&hash[..8], &hash[8..16]].map(|half| Zeroizing::new(half.to_vec()))
}

/// Decrypts `data` in place, and returns the length of the plaintext.
fn unlock<C: BlockModeDecrypt + KeyIvInit>(
    key: &[u8],
    iv: &[u8],
    data: &mut [u8],
) -> Result<usize, Closed> {
    let cipher = C::new_from_slices(key, iv).map_err(|_| Closed::Broken)?;
    let plain = cipher.decrypt_padded::<Pkcs7>(data);
    Ok(plain.map_err(|_| Closed::WrongPassword)?.len())
}

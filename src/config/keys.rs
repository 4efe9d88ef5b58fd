//! The keys that `sds-agent.toml` may have, and what was probably meant by another one.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Wrong;

/// The keys by section, those at the top of the file first.
const KEYS: [(&str, &str); 9] = [
    (
        "",
        "credentials socket admin_socket admin_tcp log_level log_format warn_days removal_delay absent \
         hosts default_credential lock_memory reload root secret listen access admin log limits trust",
    ),
    (
        "root",
        "path layout absent confine strict_permissions skip_token_folders reserved_names poll_interval \
         warn_days",
    ),
    (
        "secret",
        "name certificate private_key trusted_ca crl ocsp_staple password_file warn_days",
    ),
    ("listen", "socket mode group allow_users allow_groups"),
    ("access", "secrets users groups nodes"),
    (
        "trust",
        "name subject_alt_names only_verify_leaf_cert_crl allow_expired_certificate max_verify_depth \
         certificate_spki certificate_hash check",
    ),
    (
        "admin",
        "socket mode group allow_users allow_groups tcp tcp_details",
    ),
    ("log", "level format"),
    (
        "limits",
        "file_bytes files credentials connections streams streams_per_connection names_per_stream \
         request_bytes client_bytes",
    ),
];

/// Refuses the first key that is unknown, and names the nearest one that there is.
pub(super) fn check(top: &DeTable<'_>) -> Result<(), Wrong> {
    check_section("", top)?;
    for (name, value) in top {
        let section: &str = name.get_ref();
        match value.get_ref() {
            DeValue::Table(table) => check_section(section, table)?,
            DeValue::Array(items) => {
                for table in items.iter().filter_map(|item| item.get_ref().as_table()) {
                    check_section(section, table)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_section(section: &str, table: &DeTable<'_>) -> Result<(), Wrong> {
    let unknown = table
        .keys()
        .find(|key| !all().any(|known| known == (section, key.get_ref())));
    unknown.map_or(Ok(()), |key| Err(wrong(section, key)))
}

/// Every key, with its section.
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYS.iter()
        .flat_map(|(section, keys)| keys.split(' ').map(move |key| (*section, key)))
}

fn wrong(section: &str, key: &Spanned<toml::de::DeString<'_>>) -> Wrong {
    let written = key.get_ref();
    // The same section first: of keys that are as near, `min_by` takes the first.
    let nearest = all()
        .map(|known| {
            (
                strsim::jaro_winkler(written, known.1)
                    + f64::from(u8::from(known.0 == section)) * 0.1,
                known,
            )
        })
        .min_by(|(a, _), (b, _)| b.total_cmp(a));
    let place = if section.is_empty() {
        String::new()
    } else {
        format!(" in [{section}]")
    };
    let mut message = format!("there is no key `{}`{place}", written.escape_debug());
    if let Some((_, (other, known))) = nearest {
        let elsewhere = match other {
            _ if other == section => String::new(),
            "" => " at the top of the file".to_owned(),
            _ => format!(" in [{other}]"),
        };
        message.push_str(&format!("; did you mean `{known}`{elsewhere}?"));
    }
    Wrong::new(key.span(), message)
}

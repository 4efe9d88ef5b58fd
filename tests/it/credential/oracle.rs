//! A real Envoy as the oracle: it must accept everything that the check accepts, and reject everything that the
//! check assumes it rejects.

use std::fs;
use std::path::Path;
use std::process::Command;

use sds_agent::credential::Credential;
use serde_json::{Value, json};

use super::cases::{self, Case, Verdict};
use super::check;
use crate::util::{require, tools};

/// The number of TLS contexts in a configuration.
const BATCH: usize = 500;

#[test]
fn envoy_accepts_what_the_check_accepts() {
    let Some(envoy) = require(&tools::ENVOY) else {
        return;
    };
    let taken = cases::all()
        .into_iter()
        .filter_map(|case| check(&case.files).ok())
        .collect::<Vec<_>>();
    assert!(taken.len() > 50);
    assert_takes_all(&envoy, &taken);
}

#[test]
fn envoy_rejects_what_the_check_assumes_it_rejects() {
    let Some(envoy) = require(&tools::ENVOY) else {
        return;
    };
    let mut wrong = Vec::new();
    for Case {
        name,
        files,
        verdict,
    } in cases::all()
    {
        let rejects = match verdict {
            Verdict::Good(_) => continue,
            Verdict::Bad(_) => true,
            Verdict::Stricter(_) => false,
        };
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in &files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let context = context(folder.path(), |name| {
            files.iter().any(|(file, _)| file == name)
        });
        if judge(&envoy, folder.path(), vec![context]).is_err() != rejects {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "Envoy is of another mind: {wrong:?}");
}

fn assert_takes_all(envoy: &Path, credentials: &[Credential]) {
    for batch in credentials.chunks(BATCH) {
        let folder = tempfile::tempdir().unwrap();
        let contexts = batch
            .iter()
            .enumerate()
            .map(|(number, credential)| {
                written(&folder.path().join(number.to_string()), credential)
            })
            .collect();
        if let Err(why) = judge(envoy, folder.path(), contexts) {
            let folder = folder.keep();
            panic!("Envoy rejects what is in {}: {why}", folder.display());
        }
    }
}

/// Writes what would be served, and returns a TLS context that uses it.
fn written(folder: &Path, credential: &Credential) -> Value {
    let mut names = Vec::new();
    let mut write = |name: &'static str, bytes: &[u8]| {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
        names.push(name);
    };
    if let Some(pair) = &credential.pair.part {
        write("tls.crt", &pair.chain);
        write("tls.key", &pair.key);
    }
    if let Some(bundle) = &credential.bundle.part {
        write("ca.crt", &bundle.trusted_ca);
        if let Some(crl) = &bundle.crl {
            write("ca.crl", crl);
        }
    }
    context(folder, |name| names.contains(&name))
}

/// The common TLS context of the files in `folder` that `has` knows.
fn context(folder: &Path, has: impl Fn(&str) -> bool) -> Value {
    let file = |name: &str| json!({ "filename": folder.join(name) });
    let mut context = json!({});
    if has("tls.crt") {
        context["tls_certificates"] =
            json!([{ "certificate_chain": file("tls.crt"), "private_key": file("tls.key") }]);
    }
    if has("ca.crt") {
        context["validation_context"] = json!({ "trusted_ca": file("ca.crt") });
        if has("ca.crl") {
            context["validation_context"]["crl"] = file("ca.crl");
        }
    }
    context
}

/// Whether Envoy accepts TLS contexts with these files: `Err` with its message if it rejects one.
fn judge(envoy: &Path, folder: &Path, contexts: Vec<Value>) -> Result<(), String> {
    let chains: Vec<Value> = contexts
        .into_iter()
        .enumerate()
        .map(|(number, context)| filter_chain(number, context))
        .collect();
    let listener = json!({
        "name": "l",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "listener_filters": [{
            "name": "tls_inspector",
            "typed_config": { "@type": format!("{LISTENER}.tls_inspector.v3.TlsInspector") },
        }],
        "filter_chains": chains,
    });
    let config = folder.join("envoy.json");
    let json = json!({ "static_resources": { "listeners": [listener] } });
    fs::write(&config, json.to_string()).unwrap();
    let output = Command::new(envoy)
        .args(["--mode", "validate", "-l", "error", "-c"])
        .arg(&config)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(());
    }
    let about_files = ["Failed to", "is empty", "OCSP"];
    assert!(
        about_files.iter().any(|words| printed.contains(words)),
        "{printed}"
    );
    Err(printed)
}

const LISTENER: &str = "type.googleapis.com/envoy.extensions.filters.listener";

fn filter_chain(number: usize, mut context: Value) -> Value {
    // A server's context needs a certificate.
    if context.get("tls_certificates").is_none() {
        let file =
            |ending: &str| json!({ "filename": super::odd().join(format!("p256.{ending}")) });
        context["tls_certificates"] =
            json!([{ "certificate_chain": file("crt"), "private_key": file("key") }]);
    }
    json!({
        "filter_chain_match": { "server_names": [format!("{number}.example")] },
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": context,
            },
        },
        "filters": [{
            "name": "echo",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo" },
        }],
    })
}

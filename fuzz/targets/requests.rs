//! Any bytes as the body of any call: there is a response, and it ends.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use libfuzzer_sys::fuzz_target;
use sds_agent::config::{Config, Limits};
use sds_agent::credential::{Bundle, BundleFacts, Credential, Verdict};
use sds_agent::files::read::{RootFolder, Stamps};
use sds_agent::files::roots::Listing;
use sds_agent::inventory::{Inventory, Judged, Now, Read};
use sds_agent::peer::{Groups, Peer};
use sds_agent::sds::hub::{Hub, Published};
use sds_agent::sds::service::Sds;
use tokio_util::sync::CancellationToken;

const CALLS: [&str; 3] = ["StreamSecrets", "DeltaSecrets", "FetchSecrets"];

fn peer() -> Arc<Peer> {
    Arc::new(Peer {
        uid: 1,
        gid: 1,
        pid: None,
        user: None,
        groups: Groups::default(),
        process: None,
    })
}

/// A hub with one secret, which the seeds request.
fn hub() -> Arc<Hub> {
    let facts = BundleFacts {
        certificates: Box::default(),
        files: Default::default(),
    };
    let bundle = Bundle {
        trusted_ca: b"a CA".to_vec(),
        crl: None,
        options: Arc::default(),
        facts,
    };
    let mut credential = Credential {
        bundle: Verdict {
            part: Some(bundle),
            ..Verdict::default()
        },
        ..Credential::default()
    };
    let config = Config::default();
    let root: Arc<Path> = config.roots[0].path.as_path().into();
    let listing = Listing {
        present: true,
        complete: true,
        credentials: vec!["site-cacert".to_owned()],
        problems: Vec::new(),
        stamps: Stamps::default(),
        folder: RootFolder::default(),
    };
    let now = Now::read();
    let mut inventory = Inventory::new(&config);
    for key in inventory.listed(&root, listing, now, now.instant) {
        let judged = Read::Judged(Box::new(Judged::from(std::mem::take(&mut credential))));
        inventory.observe(&key, judged, now, now.instant);
    }
    let hub = Hub::default();
    let published = Published {
        snapshot: inventory.snapshot().clone(),
        ..Published::default()
    };
    hub.publish(published, &inventory.take_changes());
    Arc::new(hub)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (call, data) = input;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let limits = Limits {
            names_per_stream: 100,
            request_bytes: 65_536,
            ..Limits::default()
        };
        let sds = Sds::new(
            hub(),
            Arc::default(),
            limits,
            CancellationToken::new(),
        );
        let call = CALLS[usize::from(call) % CALLS.len()];
        let uri = format!("/envoy.service.secret.v3.SecretDiscoveryService/{call}");
        let request = http::Request::post(uri)
            .body(Full::new(Bytes::copy_from_slice(data)))
            .unwrap();
        let (head, body) = sds.call(peer(), request).await.into_parts();
        let answer = body.collect().await.unwrap();
        // Every stream ends with its status; a refusal has it in its headers.
        let trailers = answer.trailers();
        assert!(
            head.headers.contains_key("grpc-status")
                || trailers.is_some_and(|trailers| trailers.contains_key("grpc-status"))
        );
    });
});

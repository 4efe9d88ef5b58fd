//! Any bytes as the body of any call: there is an answer, and it ends.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use libfuzzer_sys::fuzz_target;
use sds_agent::config::Limits;
use sds_agent::credential::Bundle;
use sds_agent::peer::{Groups, Peer};
use sds_agent::sds::access::Access;
use sds_agent::sds::service::Sds;
use sds_agent::secret::Secret;
use sds_agent::store::Store;
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

/// A store with one secret, which the seeds ask for.
fn store() -> Arc<Store> {
    let bundle = Bundle {
        trusted_ca: b"a CA".to_vec(),
        crl: None,
        certificates: Vec::new(),
        files: Vec::new(),
    };
    let store = Store::default();
    store.set(Arc::new(Secret::trust_bundle("site".into(), &bundle)));
    Arc::new(store)
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
            store(),
            Arc::default(),
            Arc::new(Access::default()),
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
        // Every stream ends with its status; a refusal has it in its head.
        let trailers = answer.trailers();
        assert!(
            head.headers.contains_key("grpc-status")
                || trailers.is_some_and(|trailers| trailers.contains_key("grpc-status"))
        );
    });
});

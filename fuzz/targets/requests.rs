//! Any bytes as the body of any call: there is an answer, and it ends.
#![no_main]

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, Full};
use libfuzzer_sys::fuzz_target;
use sds_agent::config::Limits;
use sds_agent::peer::Peer;
use sds_agent::sds::access::Access;
use sds_agent::sds::service::Sds;
use sds_agent::store::Store;
use tokio_util::sync::CancellationToken;

const CALLS: [&str; 3] = ["StreamSecrets", "DeltaSecrets", "FetchSecrets"];

fn peer() -> Arc<Peer> {
    Arc::new(Peer {
        uid: 1,
        gid: 1,
        pid: None,
        user: None,
        groups: Arc::from([1]),
        process: None,
    })
}

/// The body in two pieces, cut anywhere.
fn body(data: &[u8]) -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static {
    Full::new(Bytes::copy_from_slice(data))
}

fuzz_target!(|input: (u8, &[u8])| {
    let (call, data) = input;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let limits = Limits { names_per_stream: 100, request_bytes: 65_536, ..Limits::default() };
        let sds = Sds::new(
            Arc::new(Store::default()),
            Arc::default(),
            Arc::new(Access::default()),
            limits,
            CancellationToken::new(),
        );
        let call = CALLS[usize::from(call) % CALLS.len()];
        let uri = format!("/envoy.service.secret.v3.SecretDiscoveryService/{call}");
        let request = http::Request::post(uri).body(body(data)).unwrap();
        let response = sds.call(peer(), request).await;
        let answer = response.into_body().collect().await.unwrap();
        // Every call ends with its status.
        assert!(answer.trailers().is_some_and(|trailers| trailers.contains_key("grpc-status")) || call == "FetchSecrets");
    });
});

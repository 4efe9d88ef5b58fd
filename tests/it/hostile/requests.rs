//! Requests that are as expensive as possible.

use prost::Message;
use sds_agent::proto::core::Node;
use sds_agent::proto::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use sds_agent::proto::rpc;
use tonic::Code;

use super::raw::{Raw, Stream, frame, head};
use super::{assert_rotates, assert_serves, logged, start, subscribed};
use crate::util::{admin, eventually_true};

/// The maximum increase of resident memory that an attack may cause, in KiB.
const BOUNDED_KIB: u64 = 64 * 1024;

#[test]
fn four_mebibytes_of_empty_names_end_only_their_stream_and_cost_no_memory() {
    let (bed, agent, _) = start("");
    let client = bed.client();
    let before = agent.resident_kib();
    // Field 3 of both requests, empty: two bytes each.
    let names = frame(&[0x1a, 0x00].repeat(2 * 1024 * 1024));
    let mut connection = Raw::connect(&bed.socket());
    for call in ["StreamSecrets", "DeltaSecrets", "FetchSecrets"] {
        let streams: Vec<Stream> = (0..8)
            .map(|_| {
                let stream = connection.open(call);
                stream.send(names.clone());
                stream
            })
            .collect();
        for stream in streams {
            assert_eq!(stream.end(), Code::ResourceExhausted, "{call}");
        }
    }
    assert_serves(&bed, &client);
    let grown = agent.resident_kib().saturating_sub(before);
    assert!(grown < BOUNDED_KIB, "the agent has grown by {grown} KiB");
}

#[test]
fn a_name_repeated_on_many_streams_delays_no_other_client() {
    let (bed, agent, _) = start("");
    let client = bed.client();
    let before = agent.resident_kib();
    let request = DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["no-such-name".into(); 16_384],
        ..DeltaDiscoveryRequest::default()
    };
    let request = frame(&request.encode_to_vec());
    let mut connection = Raw::connect(&bed.socket());
    let streams: Vec<Stream> = (0..300)
        .map(|_| {
            let stream = connection.open("DeltaSecrets");
            stream.send(request.clone());
            stream
        })
        .collect();
    assert_serves(&bed, &client);
    drop(streams);
    drop(connection);
    assert_serves(&bed, &client);
    let grown = agent.resident_kib().saturating_sub(before);
    assert!(grown < BOUNDED_KIB, "the agent has grown by {grown} KiB");
}

#[test]
fn truncated_requests_time_out_and_leave_nothing_behind() {
    let (bed, agent, _) = start("[limits]\nclient_bytes = 16777216\n");
    let client = bed.client();
    // Subscribed before the user's budget is used up, which refuses a new subscription.
    let mut earlier = subscribed(&client);
    let before = agent.resident_kib();
    let mut connection = Raw::connect(&bed.socket());
    // Half of a node of 2 MB, none of which is needed, and half of 2 MB of names, all of which are.
    let mut node = head(2_000_004);
    node.extend([0x0a, 0x80, 0x89, 0x7a]);
    node.extend(vec![b'x'; 100_000]);
    let mut names = head(2_000_000);
    for n in 0..500 {
        names.extend([0x1a, 0xc8, 0x01]);
        names.extend(format!("{n:0>200}").into_bytes());
    }
    let mut open = Vec::new();
    for n in 0..400 {
        let stream = connection.open("DeltaSecrets");
        stream.send(if n % 2 == 0 {
            node.clone()
        } else {
            names.clone()
        });
        open.push(stream);
    }
    assert_rotates(&bed, &mut earlier);
    let grown = agent.resident_kib().saturating_sub(before);
    assert!(grown < BOUNDED_KIB, "the agent has grown by {grown} KiB");
    let mut refused = 0;
    for stream in open {
        match stream.end() {
            Code::DeadlineExceeded => {}
            Code::ResourceExhausted => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0, "200 times 100 kB are more than 12 MiB");
    assert_serves(&bed, &client);
}

#[test]
fn a_stream_without_a_request_is_closed() {
    let (bed, _agent, _) = start("");
    let mut connection = Raw::connect(&bed.socket());
    let silent = connection.open("StreamSecrets");
    assert_eq!(silent.end(), Code::DeadlineExceeded);
}

#[test]
fn the_subscriptions_of_one_user_are_bounded_in_total() {
    let (bed, agent, _) = start("[limits]\nclient_bytes = 1048576\n");
    let mut connection = Raw::connect(&bed.socket());
    let streams: Vec<Stream> = (0..40)
        .map(|of| {
            let names = (0..100).map(|n| format!("name-{of}-{n}")).collect();
            let request = DeltaDiscoveryRequest {
                resource_names_subscribe: names,
                ..DeltaDiscoveryRequest::default()
            };
            let stream = connection.open("DeltaSecrets");
            stream.send(frame(&request.encode_to_vec()));
            stream
        })
        .collect();
    agent.wait_for_line(&["stream ended", "too many names"]);
    let series = "sds_agent_limit_reached_total{limit=\"client_bytes\"}";
    admin::metric_becomes(&bed.admin(), series, |count| count > 0.0);
    // A budget that was released can be used again.
    drop((streams, connection));
    eventually_true("room for a subscription", || {
        let mut stream = bed.client().delta();
        stream.subscribe(&["site"]);
        stream.0.recv_or_end().is_ok()
    });
}

#[test]
fn texts_from_a_client_are_truncated_and_its_suppressed_lines_are_counted() {
    let (bed, agent, _) = start("");
    let client = bed.client();
    let before = logged(&agent);
    let mut connection = Raw::connect(&bed.socket());
    let first = DiscoveryRequest {
        node: Some(Node {
            id: "i".repeat(1_000_000),
            cluster: "c".repeat(1_000_000),
        }),
        resource_names: (0..1000).map(|n| format!("unknown-{n}")).collect(),
        ..DiscoveryRequest::default()
    };
    let streams: Vec<Stream> = (0..20)
        .map(|_| {
            let stream = connection.open("StreamSecrets");
            stream.send(frame(&first.encode_to_vec()));
            stream
        })
        .collect();
    // Rejections with long reasons, again and again.
    let mut sotw = client.sotw();
    sotw.subscribe(&["site"]);
    for _ in 0..300 {
        let response = sotw.recv();
        let mut nack = DiscoveryRequest {
            response_nonce: response.nonce,
            resource_names: vec!["site".into()],
            error_detail: Some(rpc::Status {
                code: 13,
                message: "m".repeat(100_000),
            }),
            ..DiscoveryRequest::default()
        };
        sotw.stream.send(nack.clone());
        // Starts over, so that the secret is sent again.
        nack.response_nonce.clear();
        nack.error_detail = None;
        sotw.stream.send(nack);
    }
    agent.wait_for_line(&["left_out"]);
    assert_serves(&bed, &client);
    drop(streams);
    for line in agent.lines() {
        assert!(line.len() < 4096, "a line of {} bytes", line.len());
        assert!(!line.contains(&"i".repeat(300)));
    }
    // 20,000 subscriptions and 300 rejections: two kinds of lines with 64 KiB each, and audit lines for deliveries,
    // which are never left out.
    let deliveries: usize = agent
        .lines_with(&["key_delivered"])
        .iter()
        .map(|line| line.len() + 1)
        .sum();
    let written = logged(&agent) - before - deliveries;
    assert!(written < 400_000, "{written} bytes were logged");
}

//! Health: `/livez`, `/readyz`, `grpc.health.v1`, and server reflection.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::util::sds::block_on;
use crate::util::{Bed, admin, eventually_true};

const SDS: &str = "envoy.service.secret.v3.SecretDiscoveryService";

#[test]
fn the_agent_is_ready_when_every_root_was_read_and_names_those_that_were_not() {
    let bed = Bed::new();
    bed.pair("site");
    // A file that is being written prevents its folder from being read completely.
    let file = bed.root.credential("site").join("ca.crt");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(file)
                .unwrap();
            while !done.load(Ordering::Relaxed) {
                file.write_all(b"\n").unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
            file.write_all(bed.ca.pem().as_bytes()).unwrap();
        });
        let _agent = bed.builder().start_without_waiting();
        let root = bed.root.path();
        let answer = admin::get(&bed.admin(), "/readyz");
        done.store(true, Ordering::Relaxed);
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.body.contains(root.to_str().unwrap()), "{answer:?}");
        eventually_true("readiness", || {
            let answer = admin::get(&bed.admin(), "/readyz");
            (answer.status, answer.body.as_str()) == (200, "ready\n")
        });
        assert_eq!(admin::metric(&bed.admin(), "sds_agent_ready"), Some(1.0));
    });
}

#[test]
fn livez_answers_while_the_agent_is_alive() {
    let bed = Bed::new();
    let _agent = bed.agent();
    let answer = admin::get(&bed.admin(), "/livez");
    assert_eq!((answer.status, answer.body.as_str()), (200, "alive\n"));
}

#[test]
fn grpc_health_answers_for_the_server_and_its_service() {
    let bed = Bed::new();
    let agent = bed.agent();
    let mut client = HealthClient::new(bed.client().channel());
    let mut check = |service: &str| {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = block_on(client.check(request));
        answer.map(|answer| answer.into_inner().status())
    };
    assert_eq!(check("").unwrap(), ServingStatus::Serving);
    assert_eq!(check(SDS).unwrap(), ServingStatus::Serving);
    assert_eq!(check("other").unwrap_err().code(), Code::NotFound);

    let request = HealthCheckRequest {
        service: SDS.into(),
    };
    let mut watch = block_on(client.watch(request)).unwrap().into_inner();
    let first = block_on(watch.message()).unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    // A watch never ends, and must not delay shutdown.
    assert!(agent.terminate().success());
    let end = block_on(watch.message());
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}

#[test]
fn reflection_lists_the_services_and_describes_them() {
    let bed = Bed::new();
    let _agent = bed.agent();
    let mut client = ServerReflectionClient::new(bed.client().channel());
    let mut ask = |message| {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message),
        };
        let answers = block_on(client.server_reflection_info(tokio_stream::once(request)));
        let answer = block_on(answers.unwrap().into_inner().message());
        answer.unwrap().unwrap().message_response.unwrap()
    };
    let services = match ask(MessageRequest::ListServices(String::new())) {
        MessageResponse::ListServicesResponse(list) => list.service,
        other => panic!("{other:?}"),
    };
    let names: Vec<_> = services.into_iter().map(|service| service.name).collect();
    for name in [SDS, "grpc.health.v1.Health"] {
        assert!(names.iter().any(|other| other == name), "{names:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol(SDS.into());
    match ask(symbol) {
        MessageResponse::FileDescriptorResponse(files) => {
            assert!(!files.file_descriptor_proto.is_empty());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_unknown_service_is_unimplemented() {
    let bed = Bed::new();
    let _agent = bed.agent();
    // The older version of reflection exists too; an invented path does not.
    let mut client = tonic::client::Grpc::new(bed.client().channel());
    let path = http::uri::PathAndQuery::from_static("/no.such.Service/Method");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
    let asked = async {
        client.ready().await.unwrap();
        client
            .unary(
                tonic::Request::new(HealthCheckRequest::default()),
                path,
                codec,
            )
            .await
    };
    assert_eq!(block_on(asked).unwrap_err().code(), Code::Unimplemented);
}

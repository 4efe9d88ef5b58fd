//! `FetchSecrets`: one request, one response.

use sds_agent::proto::SECRET_TYPE_URL;
use sds_agent::proto::discovery::DiscoveryRequest;
use tonic::Code;

use crate::util::Bed;
use crate::util::sds::secrets_of;

fn request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: SECRET_TYPE_URL.into(),
        ..DiscoveryRequest::default()
    }
}

#[test]
fn known_names_are_returned_and_unknown_ones_left_out() {
    let bed = Bed::new();
    let identity = bed.pair("site");
    let _agent = bed.agent();
    let answer = bed.client().fetch(request(&["unknown", "site"])).unwrap();
    let secrets = secrets_of(&answer);
    assert_eq!(secrets.len(), 1, "{secrets:?}");
    assert!(secrets[0].is_pair(&identity.chain, &identity.key));
}

#[test]
fn only_unknown_names_is_not_found() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    let status = bed.client().fetch(request(&["unknown"])).unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

#[test]
fn an_empty_request_and_a_wildcard_get_no_secret() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    for names in [&[][..], &["*"]] {
        let answer = bed.client().fetch(request(names));
        assert!(answer.is_err(), "{names:?}: {answer:?}");
    }
}

#[test]
fn another_type_url_is_an_invalid_argument() {
    let bed = Bed::new();
    bed.pair("site");
    let _agent = bed.agent();
    let mut request = request(&["site"]);
    request.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
    let status = bed.client().fetch(request).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

//! Generic secrets in the filters of Envoy that use them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::envoys::{ask, header, plain, secret, start};
use crate::util::{BOUND, Bed, eventually, eventually_true, require, tools};

#[test]
fn oauth2_signs_with_its_hmac_secret_and_shows_its_token_secret() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    let bed = Bed::new();
    let write = |name: &str, value: &str| bed.root.write(name, &[("secret", value)]);
    write("client-token", "token1\n");
    write("hmac", "hmac1");
    let _agent = bed.ready_agent();
    let (address, exchanges) = token_endpoint();
    let socket = bed.scratch("oauth2.sock");
    let listener = plain(&socket, oauth2(), json!([super::envoys::mirror()]));
    let envoy = start(&program, &bed, &[], vec![listener], vec![cluster(address)]);
    let login = || {
        let answer = ask(&socket, "/page", "")?;
        let location = header(&answer, "location").first()?.to_string();
        let cookies = header(&answer, "set-cookie").into_iter();
        let cookies: Vec<_> = cookies.filter_map(|one| one.split(';').next()).collect();
        Some((location, cookies.join("; ")))
    };
    for number in [1, 2] {
        write("client-token", &format!("token{number}"));
        write("hmac", &format!("hmac{number}"));
        let key = format!("hmac{number}");
        let (location, cookies) = eventually("a nonce of this HMAC secret", || {
            login().filter(|(_, cookies)| is_signed(cookies, &key))
        });
        assert!(
            location.starts_with("https://auth.test/authorize?"),
            "{location}"
        );
        // The user is redirected back with a code, with which Envoy requests the tokens.
        let state = location
            .split(['?', '&'])
            .find(|part| part.starts_with("state="));
        let callback = format!("/callback?code=c&{}", state.unwrap());
        let shown = format!("client_secret=token{number}");
        eventually_true("the token secret", || {
            let _ = ask(&socket, &callback, &format!("Cookie: {cookies}\r\n"));
            let body = exchanges.recv_timeout(BOUND).unwrap();
            body.contains(&shown)
        });
    }
    envoy.assert_no_rejection();
}

/// Whether a cookie is a number with its HMAC by `key`.
fn is_signed(cookies: &str, key: &str) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let mut values = cookies.split("; ").filter_map(|one| one.split_once('='));
    values.any(|(_, value)| {
        let Some((number, tag)) = value.split_once('.') else {
            return false;
        };
        tag == STANDARD.encode(hmac::sign(&key, number.as_bytes()))
    })
}

fn oauth2() -> Value {
    json!({
        "name": "oauth2",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.oauth2.v3.OAuth2",
            "config": {
                "token_endpoint": { "cluster": "token", "uri": "http://token.test/token", "timeout": "10s" },
                "authorization_endpoint": "https://auth.test/authorize",
                "redirect_uri": "http://%REQ(:authority)%/callback",
                "redirect_path_matcher": { "path": { "exact": "/callback" } },
                "signout_path": { "path": { "exact": "/signout" } },
                "credentials": {
                    "client_id": "me",
                    "token_secret": secret("client-token"),
                    "hmac_secret": secret("hmac"),
                },
            },
        },
    })
}

fn cluster(address: SocketAddr) -> Value {
    let address =
        json!({ "socket_address": { "address": "127.0.0.1", "port_value": address.port() } });
    json!({
        "name": "token",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "token",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
        },
    })
}

/// A server that refuses each request, and returns the bodies.
fn token_endpoint() -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (bodies, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                let (name, value) = line.split_once(": ").unwrap_or_default();
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let refusal = "HTTP/1.1 400 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.get_mut().write_all(refusal.as_bytes());
            if bodies
                .send(String::from_utf8_lossy(&body).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
    (address, receiver)
}

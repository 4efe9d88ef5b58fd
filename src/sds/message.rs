//! Responses, encoded around the shared bytes of the secrets that they hold.

use std::sync::Arc;

use bytes::Bytes;

use super::grpc::Segments;
use crate::proto::SECRET_TYPE_URL;
use crate::proto::encode::{Field, Value, head_len, write_head};
use crate::secret::{Name, Secret};

/// The agent, as Envoy's log names it.
const CONTROL_PLANE: &str = concat!("sds-agent/", env!("CARGO_PKG_VERSION"));

/// A `DiscoveryResponse`.
pub(crate) fn sotw(version_info: &str, nonce: &str, secrets: &[Arc<Secret>]) -> Segments {
    let mut plain = Vec::new();
    string(1, version_info, &mut plain);
    string(4, SECRET_TYPE_URL, &mut plain);
    string(5, nonce, &mut plain);
    control_plane(6, &mut plain);
    pieces(plain, secrets, |secret, plain| {
        write_head(2, secret.resource().len(), plain);
    })
}

/// A `DeltaDiscoveryResponse`.
pub(crate) fn delta(nonce: &str, secrets: &[Arc<Secret>], removed: &[Name]) -> Segments {
    let mut plain = Vec::new();
    string(4, SECRET_TYPE_URL, &mut plain);
    string(5, nonce, &mut plain);
    removed.iter().for_each(|name| string(6, name, &mut plain));
    control_plane(7, &mut plain);
    pieces(plain, secrets, |secret, plain| {
        let any = secret.resource().len();
        let named = [
            Field(1, Value::Bytes(secret.version().as_bytes())),
            Field(3, Value::Bytes(secret.name().as_bytes())),
        ];
        let length = named.iter().map(Field::len).sum::<usize>() + head_len(2, any) + any;
        write_head(2, length, plain);
        named.iter().for_each(|field| field.write(plain));
        write_head(2, any, plain);
    })
}

/// Appends each secret to `plain`: what `lead_in` writes, then its shared bytes.
fn pieces(
    mut plain: Vec<u8>,
    secrets: &[Arc<Secret>],
    lead_in: impl Fn(&Secret, &mut Vec<u8>),
) -> Segments {
    let mut pieces = Vec::with_capacity(2 * secrets.len() + 1);
    for secret in secrets {
        lead_in(secret, &mut plain);
        pieces.push(Bytes::from(std::mem::take(&mut plain)));
        pieces.push(secret.resource().clone());
    }
    if secrets.is_empty() {
        pieces.push(Bytes::from(plain));
    }
    Segments::frame(pieces)
}

fn string(number: u32, text: &str, buffer: &mut Vec<u8>) {
    Field(number, Value::Bytes(text.as_bytes())).write(buffer);
}

fn control_plane(number: u32, buffer: &mut Vec<u8>) {
    let identifier = Field(1, Value::Bytes(CONTROL_PLANE.as_bytes()));
    Field(number, Value::Message(vec![identifier])).write(buffer);
}

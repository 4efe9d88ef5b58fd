//! Responses, encoded around the shared bytes of the secrets that they hold.

use super::grpc::Segments;
use super::session::Named;
use crate::proto::SECRET_TYPE_URL;
use crate::proto::encode::{Field, Value, head_len, write_head};
use crate::secret::Name;

/// The agent, as Envoy's log names it.
const CONTROL_PLANE: &str = concat!("sds-agent/", env!("CARGO_PKG_VERSION"));

/// A `DiscoveryResponse`.
pub(crate) fn sotw(version_info: &str, nonce: &str, secrets: &[Named]) -> Segments {
    let mut plain = Segments::plain();
    string(1, version_info, &mut plain);
    string(4, SECRET_TYPE_URL, &mut plain);
    string(5, nonce, &mut plain);
    control_plane(6, &mut plain);
    pieces(plain, secrets, |Named { name, found }, plain| {
        write_head(2, found.secret.resource_len(name), plain);
    })
}

/// A `DeltaDiscoveryResponse`.
pub(crate) fn delta(nonce: &str, secrets: &[Named], removed: &[Name]) -> Segments {
    let mut plain = Segments::plain();
    string(4, SECRET_TYPE_URL, &mut plain);
    string(5, nonce, &mut plain);
    removed.iter().for_each(|name| string(6, name, &mut plain));
    control_plane(7, &mut plain);
    pieces(plain, secrets, |Named { name, found }, plain| {
        let any = found.secret.resource_len(name);
        let version = found.secret.version().digits();
        let named = [
            Field(1, Value::Bytes(version.as_bytes())),
            Field(3, Value::Bytes(name.as_bytes())),
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
    secrets: &[Named],
    lead_in: impl Fn(&Named, &mut Vec<u8>),
) -> Segments {
    let mut shared = Vec::with_capacity(secrets.len());
    for secret in secrets {
        lead_in(secret, &mut plain);
        let Named { name, found } = secret;
        found.secret.write_resource_head(name, &mut plain);
        let fields = found.secret.fields();
        shared.extend(fields.map(|field| (plain.len(), field.clone())));
    }
    Segments::frame(plain, shared)
}

fn string(number: u32, text: &str, buffer: &mut Vec<u8>) {
    Field(number, Value::Bytes(text.as_bytes())).write(buffer);
}

fn control_plane(number: u32, buffer: &mut Vec<u8>) {
    let identifier = Field(1, Value::Bytes(CONTROL_PLANE.as_bytes()));
    write_head(number, identifier.len(), buffer);
    identifier.write(buffer);
}

//! The xDS messages, generated from `proto/` under the names of Envoy's API.

pub(crate) mod encode;

use std::fmt;

/// The descriptors of all that is in `proto/`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/xds.bin"));

/// The one resource type that SDS knows.
pub const SECRET_TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The packages are nested like their names, because the generated code refers to itself that way.
#[allow(
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated"
)]
mod tree {
    pub mod envoy {
        pub mod config {
            pub mod core {
                pub mod v3 {
                    tonic::include_proto!("envoy.config.core.v3");
                }
            }
        }
        pub mod extensions {
            pub mod transport_sockets {
                pub mod tls {
                    pub mod v3 {
                        tonic::include_proto!("envoy.extensions.transport_sockets.tls.v3");
                    }
                }
            }
        }
        pub mod service {
            pub mod discovery {
                pub mod v3 {
                    tonic::include_proto!("envoy.service.discovery.v3");
                }
            }
            pub mod secret {
                pub mod v3 {
                    tonic::include_proto!("envoy.service.secret.v3");
                }
            }
        }
    }
    pub mod google {
        pub mod rpc {
            tonic::include_proto!("google.rpc");
        }
    }
}

pub use tree::envoy::config::core::v3 as core;
pub use tree::envoy::extensions::transport_sockets::tls::v3 as tls;
pub use tree::envoy::service::discovery::v3 as discovery;
pub use tree::envoy::service::secret::v3 as secret;
pub use tree::google::rpc;

impl fmt::Debug for discovery::DiscoveryResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.resources.iter().map(|any| any.value.len());
        f.debug_struct("DiscoveryResponse")
            .field("version_info", &self.version_info)
            .field("nonce", &self.nonce)
            .field("bytes_of_resources", &bytes.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for discovery::Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.resource.as_ref().map(|any| any.value.len());
        f.debug_struct("Resource")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("bytes", &bytes)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for core::DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use core::data_source::Specifier;
        match &self.specifier {
            Some(Specifier::Filename(name)) => write!(f, "DataSource(file {name:?})"),
            Some(Specifier::InlineBytes(bytes)) => write!(f, "DataSource({} bytes)", bytes.len()),
            Some(Specifier::InlineString(text)) => write!(f, "DataSource({} bytes)", text.len()),
            None => f.write_str("DataSource(empty)"),
        }
    }
}

//! Generates the xDS messages from `proto/` with protox, so that no protoc is needed, and the
//! descriptor set that server reflection serves.

use std::path::PathBuf;

use prost::Message;

const PROTOS: [&str; 2] = [
    "envoy/service/secret/v3/sds.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    let descriptors = protox::compile(PROTOS, ["proto"])?;
    std::fs::write(out.join("xds.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // It holds private keys: src/proto.rs gives it a redacted Debug.
        .skip_debug([".envoy.config.core.v3.DataSource"])
        .compile_fds(descriptors)?;
    Ok(())
}

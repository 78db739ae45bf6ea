//! Compiles `proto/` in pure Rust: nobody who builds Ambit needs `protoc`.

use std::error::Error;

const FILES: [&str; 6] = [
    "ambit.proto",
    "authorization.proto",
    "ca.proto",
    "discovery.proto",
    "enrolment.proto",
    "workload.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        // Versions are hashes of what is encoded, so a map must have one encoding.
        .btree_map(".")
        // A resource is marshalled once and shared by all streams that send it.
        .bytes(".envoy.service.discovery.v3.Resource.resource")
        .compile_fds(descriptors)?;
    Ok(())
}

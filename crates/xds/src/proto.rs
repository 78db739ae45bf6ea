//! The wire messages, generated from `proto/`.
//!
//! They mirror the protocol and check nothing: what may be believed is decided in `convert`.

#![expect(
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    clippy::too_many_lines,
    reason = "generated code"
)]

/// `ambit.xds`: our own additions.
pub mod ambit {
    tonic::include_proto!("ambit.xds");
}

/// `istio.v1.auth`: the certificate call.
pub mod ca {
    tonic::include_proto!("istio.v1.auth");
}

/// `envoy.service.discovery.v3`: delta xDS.
pub mod discovery {
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// `ambit.v1`: what a node says of the pods it captured.
pub mod enrolment {
    tonic::include_proto!("ambit.v1");
}

/// `istio.security`: policies.
pub mod security {
    tonic::include_proto!("istio.security");
}

/// `istio.workload`: workloads and services.
pub mod workload {
    tonic::include_proto!("istio.workload");
}

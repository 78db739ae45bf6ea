//! The real kernel: pods as network namespaces, hooks on a cgroup of the test's own.
//!
//! Run with `cargo test -p redirect -- --ignored`, as root, after `cargo xtask ebpf`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod capture;
mod failure;
mod lifecycle;
mod logs;
mod probes;
mod world;

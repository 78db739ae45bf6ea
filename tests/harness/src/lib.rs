//! Nodes and pods on this machine: network namespaces, cgroups, applications and a packet capture.
//!
//! What a test stands on, and nothing of the product: it starts the product's binaries as anyone
//! would and looks at them from outside. Whatever it makes carries the name of its test and the
//! id of its process, goes away on drop, and is swept by the next run when that process crashed.

pub mod app;
pub mod binaries;
pub mod capture;
pub mod cgroup;
pub mod daemon;
pub mod fabric;
pub mod http;
pub mod manifests;
pub mod mesh;
pub mod metrics;
pub mod namespace;
pub mod process;
pub mod protocol;
pub mod scope;
pub mod wait;

pub use app::App;
pub use binaries::Binaries;
pub use capture::{Capture, Captured};
pub use mesh::{Mesh, MeshOptions, Replica};
pub use protocol::{Answer, End, Failure, FailureKind};

//! The tunnel from outside: both ends ours, and peers that misbehave.

mod peers;
mod pool;
mod relay;
mod server;
mod support;

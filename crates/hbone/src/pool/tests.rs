//! Pools over in-memory connections.

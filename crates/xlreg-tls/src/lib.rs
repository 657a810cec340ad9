//! Pinned TLS 1.3.

//! The modern door.

//! What the fuzz targets do with an input; each target is two lines that call one of these.

pub mod known;
pub mod modern;
pub mod old_wire;
pub mod parts;
pub mod seeds;
pub mod service;
pub mod store;
pub mod texts;

//! Links between peers: whom they take, whom they refuse, and why.

mod changes;
mod clients;
mod links;
mod refusals;
mod strangers;
pub(crate) mod support;
mod wire;

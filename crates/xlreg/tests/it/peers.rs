//! Links between peers: whom they take, whom they refuse, and why.

mod links;
mod support;

//! The border between a callback and its host, from both sides.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "all of this is tests, helpers too"
)]
#![allow(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "hooks have the signatures that they have"
)]

#[cfg(not(miri))]
mod author;
mod block;
mod calls;
mod drops;
mod forge;
mod forged;
mod grown;
mod hooks;
mod host;
mod lent;
#[cfg(not(miri))]
mod misuse;
mod panics;
mod state;
mod written;

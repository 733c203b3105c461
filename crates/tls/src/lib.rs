//! TLS from PEM files: what a client trusts and shows, and what a server shows and trusts.
//!
//! Owns: reading the files, so that renewed certificates count without a restart ([`TlsFiles`] reads for every connection,
//! [`ServerTls`] when they have changed, and keeps the last that were good), connections with TLS or without ([`Wire`]), and what
//! its errors mean to people ([`explained`]).
//! Must not: know what is said over a connection, or who may say it. Start reading at [`files`], then [`server`].

mod explain;
mod files;
mod peer;
mod server;
mod wire;

pub use explain::explained;
pub use files::TlsFiles;
pub use peer::PeerTls;
pub use server::{Refused, SPEAKS_TLS, ServerFiles, ServerTls, VerifyClient};
pub use wire::Wire;

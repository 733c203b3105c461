//! One try with one member: connect, and have it take a session or agree to TLS.

use crate::config::ProxyConfig;
use crate::connect::Server;
use crate::opening::probe;
use crate::proxy_protocol::Origin;
use crate::routes::Binding;

/// What is asked of a member.
#[derive(Clone, Copy)]
pub(crate) enum Want<'a> {
    Session(&'a [u8]),
    Tls,
    /// TLS from the first byte, without asking.
    DirectTls,
}

/// What a member gave.
pub(crate) enum Won {
    Session(Server, Vec<u8>),
    Tls(Server),
    NoTls,
}

/// Does with one member what is wanted of it. `Err` says in words why it cannot be done now.
///
/// Inside an encrypted session a server's "starting up" could not be seen, and the client would get it. So
/// when `cautious` (the connection has been held: the member is likely to be starting) it is asked in plain first.
pub(crate) async fn attempt(
    want: Want<'_>,
    binding: &Binding,
    cautious: bool,
    config: &ProxyConfig,
    origin: Origin,
) -> Result<Won, String> {
    let backend = &binding.backend;
    let encrypted = !matches!(want, Want::Session(_));
    if encrypted && !backend.tls {
        return Ok(Won::NoTls);
    }
    if encrypted && cautious {
        let mut server = Server::connect(backend, false, config, origin).await.map_err(|e| e.to_string())?;
        server.start(&probe()).await?;
    }
    let connect = Server::connect(backend, encrypted, config, origin).await;
    let mut server = connect.map_err(|e| e.to_string())?;
    match want {
        Want::Session(startup) => {
            let answer = server.start(startup).await?;
            Ok(Won::Session(server, answer))
        }
        Want::Tls if server.request_tls().await? => Ok(Won::Tls(server)),
        Want::Tls => Ok(Won::NoTls),
        Want::DirectTls => Ok(Won::Tls(server)),
    }
}

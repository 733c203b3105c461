//! Does the postmaster still let anybody in?
//!
//! An open connection says nothing about that: its backend goes on when the postmaster hangs. So a new one is begun, up
//! to the first answer, which takes a process of the server's and no session.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::instance::Instance;

/// Length, and the code of a request for TLS. Any server answers it with one byte, whoever asks.
const REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Returns once the server has answered a new connection. There is no limit: the caller says how long to wait.
///
/// # Errors
/// When the socket refuses or closes the connection.
pub async fn greet(instance: &Instance) -> io::Result<()> {
    let mut stream = UnixStream::connect(instance.reached_in().join(instance.socket_name())).await?;
    stream.write_all(&REQUEST).await?;
    stream.read_u8().await.map(drop)
}

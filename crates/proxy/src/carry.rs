//! What a proxy leaves to the program that takes its process over, and how that program reads it.
//!
//! ```text
//!  listeners stay bound (connections queue in the kernel)
//!  connections that start     -> socket, bytes that nobody has answered: the start is made anew
//!  sessions of the relay      -> both sockets, bytes that were read and not passed on, where in a message they are
//! ```

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::frames::Frames;
use crate::relay::{Half, Handover};
use crate::routes::{Backend, Port, Routes};

/// A proxy that has made way: its sockets, and what it knew of them. Dropping it ends all of its sessions.
#[derive(Debug, Default)]
pub struct Luggage {
    pub(crate) routes: Routes,
    pub(crate) listeners: Vec<(Port, OwnedFd)>,
    pub(crate) newcomers: Vec<Newcomer>,
    pub(crate) sessions: Vec<Carried>,
}

/// [`Luggage`] in a form that another process can be given.
#[derive(Debug)]
pub struct Parts {
    /// What each of the sockets is.
    pub register: Register,
    /// Bytes that were received and not passed on.
    pub bytes: Vec<u8>,
    /// In the register's order.
    pub sockets: Vec<OwnedFd>,
}

/// What the sockets of a proxy are.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Register {
    routes: Routes,
    listeners: Vec<Port>,
    newcomers: Vec<(Guest, usize)>,
    /// With the number of bytes to the client and to the server.
    sessions: Vec<(State, usize, usize)>,
}

/// A connection that has not become a session yet.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub socket: OwnedFd,
    /// What it has sent, as far as nobody has answered it.
    pub sent: Vec<u8>,
    pub guest: Guest,
}

/// What is known of a connection that has not become a session yet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Guest {
    pub port: Port,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// Its PROXY protocol header has been read, or none is expected.
    pub introduced: bool,
    /// How long it will still wait for a member, once it has begun to.
    pub patience: Option<Duration>,
}

/// A session.
#[derive(Debug)]
pub(crate) struct Carried {
    pub client: OwnedFd,
    pub server: OwnedFd,
    pub to_client: Vec<u8>,
    pub to_server: Vec<u8>,
    pub state: State,
}

/// What is known of a session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub port: Port,
    pub member: Backend,
    /// The reign, when the member serves as primary.
    pub reign: Option<u64>,
    /// `None` when it is encrypted end to end.
    pub frames: Option<Frames>,
    pub key: Option<Vec<u8>>,
    pub halves: [Half; 2],
}

impl From<Handover> for Carried {
    fn from(session: Handover) -> Carried {
        let Handover { client, server, to_client, to_server, halves, frames, binding, tickets } = session;
        let key = tickets.key.as_ref().map(|key| key.bytes().to_owned());
        let member = (*binding.backend).clone();
        let state = State { port: binding.port, member, reign: binding.reign, frames, key, halves };
        Carried { client, server, to_client, to_server, state }
    }
}

impl Luggage {
    /// Of somebody who has no proxy and knows these routes.
    pub fn knowing(routes: Routes) -> Luggage {
        Luggage { routes, ..Luggage::default() }
    }

    /// The routes that were in force.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// How many connections there are, those that have only begun included.
    pub fn connections(&self) -> usize {
        self.newcomers.len() + self.sessions.len()
    }

    /// Takes it apart.
    pub fn into_parts(self) -> Parts {
        let Luggage { routes, listeners, newcomers, sessions } = self;
        let (mut bytes, mut sockets, mut register) =
            (Vec::new(), Vec::new(), Register { routes, ..Register::default() });
        for (port, socket) in listeners {
            register.listeners.push(port);
            sockets.push(socket);
        }
        for Newcomer { socket, sent, guest } in newcomers {
            register.newcomers.push((guest, sent.len()));
            bytes.extend(sent);
            sockets.push(socket);
        }
        for Carried { client, server, to_client, to_server, state } in sessions {
            register.sessions.push((state, to_client.len(), to_server.len()));
            bytes.extend(to_client);
            bytes.extend(to_server);
            sockets.extend([client, server]);
        }
        Parts { register, bytes, sockets }
    }

    /// Puts it together again. Connections whose sockets or bytes are missing are left out.
    pub fn from_parts(parts: Parts) -> Luggage {
        let Parts { register, bytes, sockets } = parts;
        let (mut sockets, mut bytes) = (sockets.into_iter(), bytes.into_iter());
        let mut take = |count: usize| {
            let taken: Vec<u8> = bytes.by_ref().take(count).collect();
            (taken.len() == count).then_some(taken)
        };
        let listeners = register.listeners.into_iter().map_while(|port| Some((port, sockets.next()?))).collect();
        let newcomers = register
            .newcomers
            .into_iter()
            .map_while(|(guest, sent)| Some(Newcomer { socket: sockets.next()?, sent: take(sent)?, guest }));
        let newcomers = newcomers.collect();
        let sessions = register.sessions.into_iter().map_while(|(state, to_client, to_server)| {
            let (client, server) = (sockets.next()?, sockets.next()?);
            Some(Carried { client, server, to_client: take(to_client)?, to_server: take(to_server)?, state })
        });
        Luggage { routes: register.routes, listeners, newcomers, sessions: sessions.collect() }
    }
}

/// Asks a running proxy to make way.
#[derive(Clone, Debug)]
pub struct Mover {
    ask: mpsc::Sender<oneshot::Sender<Luggage>>,
}

pub(crate) type Asked = mpsc::Receiver<oneshot::Sender<Luggage>>;

impl Mover {
    pub(crate) fn new() -> (Mover, Asked) {
        let (ask, asked) = mpsc::channel(1);
        (Mover { ask }, asked)
    }

    /// Ends the proxy's run and gives back everything that it had, with every byte in its place. `None` when it has ended, or
    /// drains already.
    pub async fn pack(&self) -> Option<Luggage> {
        let (answer, luggage) = oneshot::channel();
        self.ask.send(answer).await.ok()?;
        luggage.await.ok()
    }
}

/// Where those who leave put what they have.
#[derive(Debug, Default)]
pub(crate) struct Departure {
    /// The proxy makes way: nothing is begun any more.
    pub leaving: CancellationToken,
    listeners: Mutex<Vec<(Port, OwnedFd)>>,
    newcomers: Mutex<Vec<Newcomer>>,
}

impl Departure {
    pub fn leave_listener(&self, port: Port, listener: tokio::net::TcpListener) {
        // It fails only on a descriptor that is dead: then there is nothing to leave.
        if let Ok(listener) = listener.into_std() {
            self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push((port, listener.into()));
        }
    }

    pub fn leave_newcomer(&self, newcomer: Newcomer) {
        self.newcomers.lock().unwrap_or_else(PoisonError::into_inner).push(newcomer);
    }

    pub fn luggage(&self, routes: Routes, sessions: Vec<Handover>) -> Luggage {
        let listeners = std::mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner));
        let newcomers = std::mem::take(&mut *self.newcomers.lock().unwrap_or_else(PoisonError::into_inner));
        Luggage { routes, listeners, newcomers, sessions: sessions.into_iter().map(Carried::from).collect() }
    }
}

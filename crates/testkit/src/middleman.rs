//! A server of HTTP/1.1 as a bad network and a bad store show it: requests that never arrive, answers that get lost, errors that
//! are true and errors that are not, bodies cut off and bits flipped. It stands before a real server and keeps what was asked.

pub(crate) mod wire;

use std::io::BufReader;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::listening::{Listening, Stream, Tls};
pub use wire::Request;
use wire::{Answer, read_answer, read_request};

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks before the server hears of it.
    Before,
    /// The connection breaks half-way through the body of the request; the server does not hear of it.
    Torn,
    /// The server does it, and its answer gets lost.
    After,
    /// Nothing happens for so long; then the connection breaks.
    Hang(Duration),
    /// The server does not hear of it, and this is the answer.
    Status(u16),
    /// The server does it, and this is the answer all the same.
    StatusAfter(u16),
    /// The body of the answer breaks off half-way.
    CutOff,
    /// Half of the body, and the answer claims that it is all.
    Short,
    /// One bit of the body is another.
    Flipped,
    /// A list lacks its last entry.
    ListLacks,
    /// A list is empty.
    ListEmpty,
}

type Rewrite = Box<dyn FnMut(&mut Request) + Send>;
type Plan = Box<dyn FnMut(&mut Request) -> Option<Fault> + Send>;

struct State {
    seen: Vec<Request>,
    plan: Option<Plan>,
    rewrite: Option<Rewrite>,
}

struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
}

/// It ends with its handle.
pub struct Middleman {
    listening: Listening,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Middleman {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Middleman").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}

impl Middleman {
    /// Stands before `http://127.0.0.1:port`.
    pub fn before(endpoint: &str) -> Result<Middleman> {
        Middleman::start(endpoint, None)
    }

    /// The same, and its clients must speak TLS with it.
    pub fn before_with(endpoint: &str, tls: Tls) -> Result<Middleman> {
        Middleman::start(endpoint, Some(tls))
    }

    fn start(endpoint: &str, tls: Option<Tls>) -> Result<Middleman> {
        let upstream = endpoint.trim_start_matches("http://").parse().context("the address of the server")?;
        let shared =
            Arc::new(Shared { upstream, state: Mutex::new(State { seen: Vec::new(), plan: None, rewrite: None }) });
        let serving = Arc::clone(&shared);
        let serve = move |stream, open: &dyn Fn() -> bool| serve(&serving, stream, open);
        Ok(Middleman { listening: Listening::start(tls, serve)?, shared })
    }

    /// `http://127.0.0.1:port`, or with `https`.
    pub fn endpoint(&self) -> String {
        self.listening.endpoint()
    }

    /// From now on each request meets what this says. It is as the server gets it afterwards, except for its body.
    pub fn plan(&self, plan: impl FnMut(&mut Request) -> Option<Fault> + Send + 'static) {
        self.shared.state().plan = Some(Box::new(plan));
    }

    /// From now on the server gets each request as this leaves it, its body included.
    pub fn rewrite(&self, rewrite: impl FnMut(&mut Request) + Send + 'static) {
        self.shared.state().rewrite = Some(Box::new(rewrite));
    }

    /// Counts anew, and has the request of that number (from 0), and no other, meet this.
    pub fn once(&self, number: usize, fault: Fault) {
        let mut state = self.shared.state();
        state.seen.clear();
        state.plan = Some(Box::new(move |request| (request.number == number).then_some(fault)));
    }

    /// From now on all is well, and is counted anew.
    pub fn well(&self) {
        let mut state = self.shared.state();
        (state.plan, state.seen) = (None, Vec::new());
    }

    /// What was asked since it counts, in the order of arrival.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.state().seen.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a request, and says what becomes of it.
    fn judge(&self, request: &mut Request) -> Option<Fault> {
        let mut state = self.state();
        request.number = state.seen.len();
        state.seen.push(Request { body: Vec::new(), ..request.clone() });
        state.plan.as_mut().and_then(|plan| plan(request))
    }
}

/// Sleeps, but not longer than its handle lives.
fn sleep(time: Duration, open: &dyn Fn() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end && open() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn serve(shared: &Shared, client: Box<dyn Stream>, open: &dyn Fn() -> bool) -> Result<()> {
    let mut reader = BufReader::new(client);
    while let Some(mut request) = read_request(&mut reader)? {
        let fault = shared.judge(&mut request);
        if fault == Some(Fault::Torn) {
            return request.read_half(&mut reader);
        }
        request.read(&mut reader)?;
        if let Some(rewrite) = &mut shared.state().rewrite {
            rewrite(&mut request);
        }
        match fault {
            Some(Fault::Before) => return Ok(()),
            Some(Fault::Hang(time)) => {
                sleep(time, open);
                return Ok(());
            }
            Some(Fault::Status(code)) => {
                Answer::of(code).write(reader.get_mut(), request.method == "HEAD")?;
                continue;
            }
            _ => {}
        }
        let mut answer = forward(shared, &request)?;
        match fault {
            Some(Fault::After) => return Ok(()),
            Some(Fault::StatusAfter(code)) => answer = Answer::of(code),
            Some(Fault::CutOff) if answer.has_content() => return answer.write_half(reader.get_mut()),
            Some(Fault::Short) if answer.has_content() => answer.body.truncate(answer.body.len() / 2),
            Some(Fault::Flipped) if answer.has_content() => {
                let middle = answer.body.len() / 2;
                answer.body[middle] ^= 1;
            }
            Some(Fault::ListLacks) => answer.shorten_list(false),
            Some(Fault::ListEmpty) => answer.shorten_list(true),
            _ => {}
        }
        answer.write(reader.get_mut(), request.method == "HEAD")?;
    }
    Ok(())
}

fn forward(shared: &Shared, request: &Request) -> Result<Answer> {
    let mut server = TcpStream::connect(shared.upstream)?;
    server.set_nodelay(true)?;
    request.write(&mut server)?;
    read_answer(&mut BufReader::new(server), request.method == "HEAD")
}

#[cfg(test)]
mod tests;

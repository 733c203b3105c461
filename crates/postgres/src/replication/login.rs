//! The start of a session: who we are, and the proof of it.

use bytes::{Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::connection::Target;
use super::error::{ReplicationError, at_login};
use super::message::{Authentication, Message};
use super::wire::Wire;

const WHAT: &str = "accept a replication connection";

/// What the server has reported of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reported {
    /// `15.4`, as it prints it.
    pub(super) version: String,
}

/// Opens a session for physical replication; returns once the server waits for commands.
pub(super) async fn log_in(wire: &mut Wire, target: &Target) -> Result<Reported, ReplicationError> {
    let user = target.user.username.as_str();
    let parameters = [
        ("user", user),
        ("replication", "true"),
        ("application_name", target.application_name.as_str()),
        ("client_encoding", "UTF8"),
    ];
    frontend::startup_message(parameters, wire.output()).map_err(unsendable)?;
    let mut proof = Proof { target, scram: None, proved: false };
    let mut reported = Reported::default();
    loop {
        match wire.next().await.map_err(|error| ReplicationError::from_wire(WHAT, error))? {
            Message::Authentication(step) => proof.answer(step, wire.output())?,
            Message::Parameter { name, value } if name == "server_version" => reported.version = value,
            Message::Parameter { .. } | Message::CancelKey | Message::Notice(_) => {}
            Message::Error(said) => return Err(at_login(user, said)),
            Message::Ready if proof.proved => return Ok(reported),
            other => return Err(unexpected(&other)),
        }
    }
}

/// How far the authentication has come.
struct Proof<'a> {
    target: &'a Target,
    scram: Option<ScramSha256>,
    proved: bool,
}

impl Proof<'_> {
    fn answer(&mut self, step: Authentication, output: &mut BytesMut) -> Result<(), ReplicationError> {
        let user = &self.target.user;
        match step {
            Authentication::Ok => {
                if self.scram.is_some() {
                    return Err(self.impostor("it left out its part of SCRAM"));
                }
                self.proved = true;
                Ok(())
            }
            Authentication::Cleartext => {
                frontend::password_message(user.password.as_bytes(), output).map_err(unsendable)
            }
            Authentication::Md5(salt) => {
                let hash = md5_hash(user.username.as_bytes(), user.password.as_bytes(), salt);
                frontend::password_message(hash.as_bytes(), output).map_err(unsendable)
            }
            Authentication::Sasl(offered) => self.begin_scram(&offered, output),
            Authentication::SaslContinue(data) => self.go_on(&data, output),
            Authentication::SaslFinal(data) => {
                let mut scram = self.scram.take().ok_or_else(out_of_turn)?;
                scram.finish(&data).map_err(|error| self.impostor(&error.to_string()))
            }
            Authentication::Other(number) => Err(self.unsupported(method_name(number))),
        }
    }

    fn begin_scram(&mut self, offered: &[String], output: &mut BytesMut) -> Result<(), ReplicationError> {
        if !offered.iter().any(|name| name == SCRAM_SHA_256) {
            return Err(self.unsupported(&offered.join(", ")));
        }
        if self.scram.is_some() {
            return Err(out_of_turn());
        }
        let scram = ScramSha256::new(self.target.user.password.as_bytes(), ChannelBinding::unsupported());
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), output).map_err(unsendable)?;
        self.scram = Some(scram);
        Ok(())
    }

    fn go_on(&mut self, data: &Bytes, output: &mut BytesMut) -> Result<(), ReplicationError> {
        let scram = self.scram.as_mut().ok_or_else(out_of_turn)?;
        // Its state machine refuses a second time.
        scram.update(data).map_err(|error| ReplicationError::Protocol { what: WHAT, reason: error.to_string() })?;
        frontend::sasl_response(scram.message(), output).map_err(unsendable)
    }

    fn impostor(&self, reason: &str) -> ReplicationError {
        let (address, user) = (self.target.address(), self.target.user.username.clone());
        ReplicationError::Impostor { address, user, reason: reason.to_owned() }
    }

    fn unsupported(&self, method: &str) -> ReplicationError {
        let user = self.target.user.username.clone();
        ReplicationError::UnsupportedAuthentication { user, method: method.to_owned() }
    }
}

fn method_name(number: u32) -> &'static str {
    match number {
        2 => "Kerberos",
        7 | 8 => "GSSAPI",
        9 => "SSPI",
        _ => "an unknown proof",
    }
}

fn out_of_turn() -> ReplicationError {
    ReplicationError::Protocol { what: WHAT, reason: "a step of SCRAM out of turn".into() }
}

fn unexpected(message: &Message) -> ReplicationError {
    ReplicationError::Protocol { what: WHAT, reason: format!("unexpectedly {}", message.name()) }
}

fn unsendable(error: std::io::Error) -> ReplicationError {
    ReplicationError::Protocol { what: WHAT, reason: format!("user, password or name cannot be sent: {error}") }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::conninfo::Source;
    use crate::instance::Credentials;

    async fn answered(frames: &[&[u8]]) -> ReplicationError {
        let user = Credentials { username: "replicator".into(), password: "secret".into() };
        let target = Target::new(Source::new("db1", 5432), user, "test");
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let frames = frames.concat();
        let server = async {
            theirs.write_all(&frames).await.unwrap();
            // What the client sends, until it gives up.
            let mut sent = Vec::new();
            theirs.read_to_end(&mut sent).await.unwrap();
            sent
        };
        let client = async {
            let mut wire = Wire::new(Box::new(ours));
            log_in(&mut wire, &target).await.unwrap_err()
        };
        let (error, sent) = tokio::join!(client, server);
        assert!(!String::from_utf8_lossy(&sent).contains("secret"), "the password was shown");
        error
    }

    const SASL: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
    const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
    const READY: &[u8] = b"Z\0\0\0\x05I";

    #[tokio::test]
    async fn a_server_must_prove_itself_too() {
        let error = answered(&[SASL, OK, READY]).await;
        assert!(matches!(&error, ReplicationError::Impostor { address, .. } if address == "db1:5432"), "{error}");
        let error = answered(&[READY]).await;
        assert!(matches!(error, ReplicationError::Protocol { .. }), "{error}");
        let error = answered(&[b"R\0\0\0\x0c\0\0\0\x0cv=00"]).await;
        assert!(matches!(error, ReplicationError::Protocol { .. }), "a last step without a first: {error}");
        let error = answered(&[b"R\0\0\0\x08\0\0\0\x07"]).await;
        assert!(matches!(&error, ReplicationError::UnsupportedAuthentication { method, .. } if method == "GSSAPI"));
        let error = answered(&[SASL, SASL]).await;
        assert!(matches!(error, ReplicationError::Protocol { .. }), "{error}");
    }
}

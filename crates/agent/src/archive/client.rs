//! `wal-push` and `wal-fetch`: what PostgreSQL starts once for each file. No runtime, no store: one question to the agent.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::wire::{Answer, LONGEST, Wish};

const PUSH: &str = "wal-push";
const FETCH: &str = "wal-fetch";
const SOCKET: &str = "--socket";
/// An agent that is started anew, or exchanges its program, is back within this time.
const AGENT_BACK: Duration = Duration::from_secs(5);
/// The agent itself answers sooner.
const PUSH_LIMIT: Duration = Duration::from_secs(60);
/// A recovery that is nobody's standby waits so long for an agent, which answers sooner.
const FETCH_LIMIT: Duration = Duration::from_secs(60);
/// A standby answers queries as long as it waits.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);
/// PostgreSQL takes 1 to 125 from a restore_command for "there is no such file", and goes on without.
const UNANSWERED: u8 = 126;

/// One of the two commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalCommand {
    /// `wal-push [--socket SOCKET] %p`.
    Push {
        /// Where the agent listens; found through the data directory, which is the working directory, unless given.
        socket: Option<PathBuf>,
        /// The file; its name counts.
        path: PathBuf,
    },
    /// `wal-fetch [--socket SOCKET] %f %p`.
    Fetch {
        /// Likewise.
        socket: Option<PathBuf>,
        /// Name of the file.
        name: String,
        /// Where PostgreSQL wants it.
        to: PathBuf,
    },
}

impl WalCommand {
    /// Recognises the commands as PostgreSQL calls them among a program's arguments (without its name).
    ///
    /// Read by hand: the parser of the other verbs would take longer than the whole question.
    pub fn from_arguments(arguments: impl Iterator<Item = OsString>) -> Option<WalCommand> {
        let words: Vec<OsString> = arguments.take(6).collect();
        let (verb, rest) = words.split_first()?;
        let (socket, rest) = match rest {
            [flag, socket, rest @ ..] if flag == SOCKET => (Some(PathBuf::from(socket)), rest),
            rest => (None, rest),
        };
        if rest.iter().any(|word| word.as_encoded_bytes().starts_with(b"-")) {
            return None;
        }
        match rest {
            [path] if verb == PUSH => Some(WalCommand::Push { socket, path: path.into() }),
            [name, to] if verb == FETCH => {
                Some(WalCommand::Fetch { socket, name: name.to_str()?.to_owned(), to: to.into() })
            }
            _ => None,
        }
    }

    /// Asks the agent and returns the exit code that PostgreSQL is to see. What went wrong is said on standard error.
    pub fn run(&self) -> u8 {
        let (code, text) = match self {
            WalCommand::Push { socket, path } => push(socket.as_deref(), path),
            WalCommand::Fetch { socket, name, to } => fetch(socket.as_deref(), name, to),
        };
        if let Some(text) = text {
            // PostgreSQL's log is where it ends up; without one there is nobody to tell.
            let _ = writeln!(io::stderr(), "matriarch: {text}");
        }
        code
    }
}

type Outcome = (u8, Option<String>);

fn push(socket: Option<&Path>, path: &Path) -> Outcome {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else {
        return (1, Some(format!("{} is not the path of a WAL file", path.display())));
    };
    match ask(socket, &Wish::Push(name.to_owned()), AGENT_BACK, Some(PUSH_LIMIT)) {
        Ok((Answer::Done, _)) => (0, None),
        Ok((Answer::Failed(why), _)) => (1, Some(format!("{name} is not archived yet: {why}"))),
        // Above 125 it ends the archiver, which is to end now, and not try twice more.
        Ok((Answer::Stopping, _)) => {
            (UNANSWERED, Some(format!("PostgreSQL is being stopped: the agent archives {name} by itself")))
        }
        Ok((answer, _)) => (1, Some(format!("the agent answered '{answer}' to wal-push"))),
        Err(error) => (1, Some(format!("{name} is not archived yet: {error}"))),
    }
}

fn fetch(socket: Option<&Path>, name: &str, to: &Path) -> Outcome {
    // The working directory is the data directory.
    let standby = Path::new("standby.signal").exists();
    let limit = (!standby).then_some(FETCH_LIMIT);
    let wish = Wish::Fetch { name: name.to_owned(), standby };
    let failed = |why: String| (UNANSWERED, Some(format!("{name} could not be fetched: {why}")));
    let patience = if standby { NO_LIMIT } else { AGENT_BACK };
    loop {
        return match ask(socket, &wish, patience, limit) {
            Ok((Answer::Content(length), mut stream)) => match receive(&mut stream, length, to) {
                Ok(()) => (0, None),
                Err(error) => failed(format!("{}: {error}", to.display())),
            },
            Ok((Answer::Ready(ready), _)) => match take(&ready, to) {
                Ok(()) => (0, None),
                // The agent keeps it for a while only, and this host may have stood still; it offers each file once.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !ready.exists() => continue,
                Err(error) => failed(format!("{} to {}: {error}", ready.display(), to.display())),
            },
            // PostgreSQL asks for many files that need not be there: silence is right.
            Ok((Answer::Absent(_), _)) => (1, None),
            Ok((Answer::Failed(why), _)) => failed(why),
            Ok((answer, _)) => failed(format!("the agent answered '{answer}'")),
            Err(error) => failed(error),
        };
    }
}

/// Renames the file to its place; copies it where that is on another file system.
fn take(ready: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(ready, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let length = fs::metadata(ready)?.len();
            receive(&mut File::open(ready)?, length, to)?;
            fs::remove_file(ready)
        }
        done => done,
    }
}

/// Writes the file beside its place first: PostgreSQL must never see half of one.
fn receive(stream: &mut impl Read, length: u64, to: &Path) -> io::Result<()> {
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let write = |stream: &mut dyn Read| {
        let mut file = File::create(&part)?;
        let copied = io::copy(&mut stream.take(length), &mut file)?;
        if copied != length {
            let text = format!("the agent broke off after {copied} of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        fs::rename(&part, to)
    };
    write(stream).inspect_err(|_| drop(fs::remove_file(&part)))
}

fn ask(
    socket: Option<&Path>,
    wish: &Wish,
    wait_for_agent: Duration,
    limit: Option<Duration>,
) -> Result<(Answer, BufReader<UnixStream>), String> {
    let socket = match socket {
        Some(socket) => socket.to_owned(),
        None => beside_postgres().map_err(|error| {
            format!(
                "the agent's socket is not known ({error}); run this in the data directory of a running PostgreSQL, \
                 as PostgreSQL does, or say --socket"
            )
        })?,
    };
    let deadline = Instant::now() + wait_for_agent;
    loop {
        let error = match once(&socket, wish, limit) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(format!("no agent answers on {} ({error}); is `matriarch agent` running?", socket.display()));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn once(socket: &Path, wish: &Wish, limit: Option<Duration>) -> io::Result<(Answer, BufReader<UnixStream>)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(limit)?;
    stream.write_all(format!("{wish}\n").as_bytes())?;
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let mut line = String::new();
    (&mut reader).take(LONGEST as u64).read_line(&mut line)?;
    let answer = line.strip_suffix('\n').and_then(Answer::parse);
    let odd = || io::Error::other("it closed the connection without an answer");
    Ok((answer.ok_or_else(odd)?, reader))
}

/// The fifth line of `postmaster.pid` is the directory of PostgreSQL's socket, beside which the agent's lies.
fn beside_postgres() -> io::Result<PathBuf> {
    let text = fs::read_to_string("postmaster.pid")?;
    let folder = text.lines().nth(4).filter(|line| !line.is_empty());
    let folder = folder.ok_or_else(|| io::Error::other("postmaster.pid names no socket directory"))?;
    Ok(PathBuf::from(format!("{folder}.archive")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_recognised_as_postgresql_calls_them() {
        let read = |words: &[&str]| WalCommand::from_arguments(words.iter().map(OsString::from));
        let socket = Some(PathBuf::from("/run/a b.archive"));
        let push = WalCommand::Push { socket: socket.clone(), path: "pg_wal/1".into() };
        assert_eq!(read(&["wal-push", "--socket", "/run/a b.archive", "pg_wal/1"]), Some(push));
        let fetch = WalCommand::Fetch { socket, name: "2.history".into(), to: "pg_wal/X".into() };
        assert_eq!(read(&["wal-fetch", "--socket", "/run/a b.archive", "2.history", "pg_wal/X"]), Some(fetch));
        assert!(matches!(read(&["wal-push", "x"]), Some(WalCommand::Push { socket: None, .. })));
        for words in [&["wal-push"][..], &["wal-push", "--help"], &["wal-fetch", "a"], &["wal-fetch", "a", "b", "c"]] {
            assert_eq!(read(words), None, "{words:?}");
        }
    }

    #[test]
    fn what_lies_ready_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let (ready, to) = (folder.path().join("1"), folder.path().join("RECOVERYXLOG"));
        assert!(take(&ready, &to).is_err());
        fs::write(&ready, b"abc").unwrap();
        take(&ready, &to).unwrap();
        assert_eq!((fs::read(to).unwrap(), ready.exists()), (b"abc".to_vec(), false));
    }

    #[test]
    fn half_a_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("RECOVERYXLOG");
        assert!(receive(&mut &b"abc"[..], 4, &to).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        receive(&mut &b"abcd"[..], 4, &to).unwrap();
        assert_eq!(fs::read(to).unwrap(), b"abcd");
    }
}

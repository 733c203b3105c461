//! What the person at the terminal sees.

use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use matriarch_api::{Client, ClusterStatus, MemberRow};
use matriarch_cli::{Format, ListArgs, Ui, Verb};

use crate::cluster::{Found, LocalCluster};

const CATCH_UP_LIMIT: Duration = Duration::from_secs(3);
/// Bytes.
const SMALL_LAG: u64 = 1 << 20;

/// Shows progress until the cluster has a primary and every other member streams.
pub async fn until_ready(cluster: &LocalCluster) {
    let begun = Instant::now();
    let progress = Progress::new();
    loop {
        if let Some(status) = status(cluster).await {
            let (ready, text) = describe(&status, cluster.members.len());
            progress.say(&text);
            if ready {
                progress.done(&format!("ready after {:.1} s", begun.elapsed().as_secs_f64()));
                return until_caught_up(cluster).await;
            }
        } else {
            progress.say("starting the agents");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Positions are told every other second: gives replicas that have just been copied a moment to tell their second one, so
/// that the first table does not show a lag that is long gone.
async fn until_caught_up(cluster: &LocalCluster) {
    let begun = Instant::now();
    while begun.elapsed() < CATCH_UP_LIMIT {
        let behind = |member: &MemberRow| member.lag.is_some_and(|lag| lag.bytes().is_none_or(|lag| lag > SMALL_LAG));
        if status(cluster).await.is_some_and(|status| !status.members.iter().any(behind)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn status(cluster: &LocalCluster) -> Option<ClusterStatus> {
    let mut best: Option<ClusterStatus> = None;
    for member in &cluster.members {
        let client = Client::new(&format!("http://127.0.0.1:{}", member.api), None).ok()?;
        let client = client.with_timeouts(Duration::from_millis(300), Duration::from_millis(500));
        if let Ok(status) = client.cluster().await
            && best.as_ref().is_none_or(|best| status.members.len() > best.members.len())
        {
            best = Some(status);
        }
    }
    best
}

fn describe(status: &ClusterStatus, wanted: usize) -> (bool, String) {
    let leads = status.members.iter().find(|member| member.role == "leader" && member.state == "running");
    let streaming = status.members.iter().filter(|member| member.follows()).count();
    let parts: Vec<String> = status.members.iter().map(told).collect();
    let rule = status.matriarch.rule.as_ref();
    // A rule comes with the third member; before it, an acknowledged write may be on one disk only.
    let safe = wanted < 3 || rule.is_some_and(|rule| rule.needed > 0 && rule.voters.len() + 1 >= wanted);
    (leads.is_some() && streaming + 1 >= wanted && safe, parts.join(", "))
}

/// `b starting`, and what keeps it from more.
fn told(member: &MemberRow) -> String {
    match member.problem.as_deref().and_then(|problem| problem.lines().next()) {
        Some(problem) => format!("{} {} ({problem})", member.name, member.state),
        None => format!("{} {}", member.name, member.state),
    }
}

/// One moving line on a terminal; a line for each change elsewhere.
///
/// By hand: a progress bar's library brings floating point mathematics, and with it the C library's part for that into
/// every agent and guard.
struct Progress {
    terminal: bool,
    begun: Instant,
    last: RefCell<String>,
    unfinished: Cell<bool>,
}

const SPINNER: [char; 4] = ['-', '\\', '|', '/'];
const CLEAR_LINE: &str = "\r\x1b[2K";

impl Progress {
    fn new() -> Progress {
        Progress {
            terminal: std::io::stderr().is_terminal(),
            begun: Instant::now(),
            last: RefCell::default(),
            unfinished: Cell::default(),
        }
    }

    fn say(&self, text: &str) {
        if self.terminal {
            let elapsed = self.begun.elapsed();
            let spinner = SPINNER[(elapsed.as_millis() / 100) as usize % SPINNER.len()];
            // A line that is too long is cut at the edge: wrapped, it could not be cleared.
            eprint!("{CLEAR_LINE}\x1b[?7l{spinner} {} s  {text}\x1b[?7h", elapsed.as_secs());
            self.unfinished.set(true);
        } else if *self.last.borrow() != text {
            eprintln!("{text}");
            text.clone_into(&mut self.last.borrow_mut());
        }
    }

    fn done(&self, text: &str) {
        let clear = if self.terminal { CLEAR_LINE } else { "" };
        eprintln!("{clear}{text}");
        self.unfinished.set(false);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.unfinished.get() {
            eprintln!();
        }
    }
}

/// The table of members, how to connect, and what to try.
pub async fn say_ready(cluster: &LocalCluster) {
    let mut ui = Ui::terminal(Format::Table);
    let target = Found::Local(Box::new(cluster.clone())).target();
    if let Err(error) = matriarch_cli::run(Verb::List(ListArgs::default()), &target, &mut ui).await {
        eprintln!("{error:#}");
    }
    let (rw, ro) = (cluster.read_write, cluster.read_only);
    println!();
    println!("Connect (the password is in {}):", cluster.passfile().display());
    println!("  read and write  postgresql://{}@127.0.0.1:{rw}/postgres", cluster.superuser);
    println!("  read only       postgresql://{}@127.0.0.1:{ro}/postgres", cluster.superuser);
    println!();
    let program = program();
    let leader = status(cluster).await.and_then(|status| status.matriarch.leader).unwrap_or_else(|| "a".to_owned());
    let kill = format!("kill -9 $(head -1 {}/{leader}/data/postmaster.pid)", cluster.dir.display());
    let mut tries = vec![
        (format!("{program} psql"), "a session on the primary, wherever it is"),
        (format!("{program} list --watch"), "watch the members"),
        (format!("{program} switchover"), "move the primary"),
    ];
    if cluster.archive {
        tries.push((format!("{program} backup"), "take a backup; one is taken every day"));
        tries.push((format!("{program} archive status"), "how far WAL is archived"));
    }
    tries.push((kill, "kill the primary, and watch"));
    let width = tries.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    println!("Try, in another terminal:");
    for (command, what) in tries {
        println!("  {command:width$}   {what}");
    }
    println!();
    println!("Ctrl-C stops all of it; the data stays in {}.", cluster.dir.display());
}

/// How this program is called here: its plain name if the shell finds it so, else as it was called.
fn program() -> String {
    let called = std::env::args().next().unwrap_or_else(|| "matriarch".to_owned());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::current_exe().ok();
    let found = std::env::split_paths(&path).map(|dir| dir.join("matriarch")).find(|file| file.is_file());
    if found.and_then(|file| file.canonicalize().ok()) == own { "matriarch".to_owned() } else { called }
}

/// A process that cannot be kept running.
pub fn say_failure(failure: &str) {
    eprintln!("{failure}");
}

/// After Ctrl-C.
pub fn say_stopping() {
    eprintln!("stopping: replicas first, then the primary");
}

/// At the end.
pub fn say_stopped(cluster: &LocalCluster) {
    eprintln!("stopped; the data is in {}, `matriarch up` goes on with it", cluster.dir.display());
}

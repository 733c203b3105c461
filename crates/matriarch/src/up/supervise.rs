//! The processes of a local cluster: agents and the proxy, started again when they end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use matriarch_api::Client;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::cluster::LocalCluster;

/// A process that ends again sooner than this after its start is started again more and more slowly.
const SETTLED: Duration = Duration::from_secs(5);
/// A process that never lived longer than that and failed this often in a row cannot be started.
const HOPELESS: u32 = 5;
/// How long an agent may take to stop its PostgreSQL.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// All processes of the cluster.
pub struct Herd {
    agents: Vec<Keeper>,
    proxy: Keeper,
    failures: mpsc::UnboundedReceiver<String>,
}

/// One process and whoever starts it again.
struct Keeper {
    name: String,
    pid: watch::Receiver<Option<u32>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// How to start one.
struct Recipe {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
}

impl Herd {
    /// Starts everything and keeps it running.
    pub fn start(program: &Path, cluster: &LocalCluster) -> Herd {
        let (failed, failures) = mpsc::unbounded_channel();
        let agents = cluster.members.iter().map(|member| {
            let folder = cluster.member_dir(&member.name);
            let config = cluster.agent_config(&member.name).to_string_lossy().into_owned();
            Keeper::start(
                Recipe {
                    name: format!("agent of {}", member.name),
                    program: program.to_owned(),
                    arguments: vec!["agent".into(), "--supervised".into(), "--config".into(), config],
                    log: folder.join("agent.log"),
                },
                failed.clone(),
            )
        });
        let agents = agents.collect();
        let file = format!("sqlite:{}", cluster.store_file().display());
        let config = cluster.members.first().map(|first| cluster.agent_config(&first.name)).unwrap_or_default();
        let (flag, store) = match &cluster.store {
            Some(_) => ("--config", config.to_string_lossy().into_owned()),
            None => ("--store", file),
        };
        let arguments = [
            "proxy",
            "--supervised",
            flag,
            &store,
            "--scope",
            &cluster.scope,
            "--read-write",
            &format!("127.0.0.1:{}", cluster.read_write),
            "--read-only",
            &format!("127.0.0.1:{}", cluster.read_only),
            "--drain-timeout",
            "1",
        ];
        let proxy = Keeper::start(
            Recipe {
                name: "proxy".to_owned(),
                program: program.to_owned(),
                arguments: arguments.iter().map(ToString::to_string).collect(),
                log: cluster.dir.join("proxy.log"),
            },
            failed,
        );
        Herd { agents, proxy, failures }
    }

    /// Returns when a process cannot be kept running: which, why, and where its log is.
    pub async fn failed(&mut self) -> String {
        match self.failures.recv().await {
            Some(failure) => failure,
            // Every keeper has ended by itself, which only a stop makes them do.
            None => std::future::pending().await,
        }
    }

    /// Stops replicas first, so that nobody takes over while the leader stops; then the leader, then the proxy.
    pub async fn stop(self, cluster: &LocalCluster) {
        let leader = leader(cluster).await.map(|name| format!("agent of {name}"));
        let (last, first): (Vec<Keeper>, Vec<Keeper>) =
            self.agents.into_iter().partition(|keeper| Some(&keeper.name) == leader.as_ref());
        stop_all(first).await;
        stop_all(last).await;
        stop_all(vec![self.proxy]).await;
    }
}

async fn leader(cluster: &LocalCluster) -> Option<String> {
    for member in &cluster.members {
        let Ok(client) = Client::new(&format!("http://127.0.0.1:{}", member.api), None) else { continue };
        let client = client.with_timeouts(Duration::from_millis(300), Duration::from_millis(500));
        if let Ok(status) = client.cluster().await {
            return status.matriarch.leader;
        }
    }
    None
}

async fn stop_all(keepers: Vec<Keeper>) {
    for keeper in &keepers {
        keeper.ask_to_stop();
    }
    for keeper in keepers {
        let Keeper { name, pid, task, .. } = keeper;
        if tokio::time::timeout(STOP_LIMIT, task).await.is_err() {
            eprintln!("the {name} does not stop: ending it");
            send(*pid.borrow(), Signal::KILL);
        }
    }
}

fn send(pid: Option<u32>, signal: Signal) {
    if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid as i32)) {
        let _ = kill_process(pid, signal);
    }
}

impl Keeper {
    fn start(recipe: Recipe, failed: mpsc::UnboundedSender<String>) -> Keeper {
        let (report, pid) = watch::channel(None);
        let (stop, stopping) = watch::channel(false);
        let name = recipe.name.clone();
        let task = tokio::spawn(keep(recipe, report, stopping, failed));
        Keeper { name, pid, stop, task }
    }

    fn ask_to_stop(&self) {
        self.stop.send_replace(true);
        let pid = *self.pid.borrow();
        // One that was frozen by somebody must be able to hear.
        send(pid, Signal::CONT);
        send(pid, Signal::TERM);
    }
}

async fn keep(
    recipe: Recipe,
    report: watch::Sender<Option<u32>>,
    mut stopping: watch::Receiver<bool>,
    failed: mpsc::UnboundedSender<String>,
) {
    let (mut pause, mut failures) = (Duration::from_millis(200), 0);
    while !*stopping.borrow() {
        let begun = Instant::now();
        let ended = match recipe.spawn() {
            Ok(mut child) => {
                report.send_replace(child.id());
                // The pipe stays open as long as we live; its end tells the process that we are gone.
                let input = child.stdin.take();
                let status = child.wait().await;
                drop(input);
                report.send_replace(None);
                status.map_or_else(|error| error.to_string(), |status| status.to_string())
            }
            Err(error) => format!("it could not be started: {error}"),
        };
        if *stopping.borrow() {
            return;
        }
        if begun.elapsed() < SETTLED {
            failures += 1;
            pause = (pause * 2).min(Duration::from_secs(5));
        } else {
            (pause, failures) = (Duration::from_millis(200), 0);
        }
        eprintln!("the {} has ended ({ended}); it is started again", recipe.name);
        let killed = ended.contains("signal");
        if failures >= HOPELESS && !killed {
            let _ = failed.send(format!(
                "the {} ends at once ({ended}); its log {} ends with:\n{}",
                recipe.name,
                recipe.log.display(),
                tail(&recipe.log)
            ));
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopping.changed() => {}
        }
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

impl Recipe {
    fn spawn(&self) -> std::io::Result<tokio::process::Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        // A process group of its own: Ctrl-C reaches us, and we stop the others in order.
        Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
    }
}

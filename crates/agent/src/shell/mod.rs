//! The shell around the decision: one loop that takes events, observes, decides and acts, and never waits for anything
//! but the next event.

mod act;
mod address;
mod ailment;
mod archive;
mod blow;
mod chores;
mod durability;
mod ending;
mod events;
mod founding;
mod guard;
mod heartbeat;
mod in_place;
mod limits;
mod observe;
mod past;
mod pooler_role;
mod publish;
mod reading;
mod restart;
mod roles;
mod routers;
mod settings;
mod show;
mod strangers;
mod upkeep;
mod waking;
mod watchdog;
mod wish;

pub use ending::Ending;

use std::sync::Arc;
use std::time::Duration;

use matriarch_config::{DynamicConfig, LocalConfig};
use matriarch_core::MemberName;
use matriarch_core::decide::{Memory, Millis, Policy, decide};
use matriarch_dcs::{Revision, Store, boot_clock_ms, rhythm};
use matriarch_postgres::hba;
use matriarch_postgres::volumes::VolumeProbe;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::archive::{Archiver, Place as ArchivePlace};
use crate::event::Event;
use crate::guard::{GuardLink, GuardOptions, GuardState};
use crate::heartbeat::{Asked, Heartbeats};
use crate::instance::Pg;
use crate::lasting::Lasting;
use crate::options::Options;
use crate::shared::Shared;
use crate::storage::Storage;
use crate::view::Reading;
use crate::virtual_ip::{Place, VirtualIp};

/// How often the rules for connections are looked at, in milliseconds.
const RULES_EVERY: Millis = 3_000;

/// One agent.
pub struct Shell {
    options: Arc<Options>,
    config: DynamicConfig,
    config_revision: Option<Revision>,
    /// `config` as last read: a leader writes it again into a store that has lost it.
    config_text: Option<String>,
    /// Why it is not in force as it stands there.
    config_problem: Option<String>,
    storage: Storage,
    watch: watch::Receiver<Revision>,
    events: UnboundedReceiver<Event>,
    sender: UnboundedSender<Event>,
    reading: Option<Reading>,
    past: past::Past,
    read_at: Option<jiff::Timestamp>,
    /// A change was made or may have been made that the view does not show yet.
    view_is_old: bool,
    memory: Memory,
    /// PostgreSQL may be writable until then.
    authority: Option<Millis>,
    heartbeats: Arc<Heartbeats>,
    neighbours: heartbeat::Neighbours,
    lasting: Lasting,
    /// Read, and not yet kept on disk.
    unsaved: Option<heartbeat::Unsaved>,
    /// A promise that is not yet kept on disk.
    promising: Option<(Asked, Millis)>,
    /// The deadline that the guard was told.
    armed: Millis,
    pg: Pg,
    guard: GuardLink,
    archiver: Archiver,
    chores: chores::Chores,
    waiting: durability::Waiting,
    in_place: in_place::Work,
    virtual_ip: VirtualIp,
    guard_state: watch::Receiver<GuardState>,
    /// Its word as last looked at.
    guard_said: GuardState,
    /// Keeps the guard armed.
    promoting: guard::Promoting,
    /// Settings that decisions last asked for.
    configured: Option<settings::Configured>,
    /// The local configuration as this process has it.
    local: Option<LocalConfig>,
    configuring: bool,
    published: publish::Published,
    upkeep: upkeep::Upkeep,
    pooler_role: pooler_role::PoolerRole,
    checks: ailment::Checks,
    waking: waking::Waking,
    restarts: restart::Restarts,
    roles: roles::Roles,
    routers: routers::Routers,
    stopping: bool,
    /// Asked to make way, until then at the latest.
    upgrading: Option<Millis>,
    reinit: bool,
    founding: founding::Founding,
    last_why: &'static str,
    /// Nobody comes in through the Unix socket without a password.
    socket_is_safe: bool,
    wish: Option<wish::Wish>,
    /// Until when this agent may speak for the one before it.
    beginning: Option<Millis>,
    /// When to look at that again.
    rules_due: Millis,
    limits_due: Millis,
    problem: Option<String>,
    /// Why the watchdog does not work, when one is configured.
    watchdog_failure: Option<String>,
    shared: Arc<Shared>,
}

impl Shell {
    /// Prepares an agent; nothing is touched before [`Shell::run`].
    pub fn new(options: Arc<Options>, store: Arc<dyn Store>, shared: Arc<Shared>) -> Shell {
        let (sender, events) = unbounded_channel();
        shared.set_mailbox(sender.clone());
        let config = DynamicConfig::default();
        let watch = store.watch();
        let guard = GuardLink::start(
            options.program.clone(),
            GuardOptions { data_dir: options.instance.data_dir.clone(), socket: options.guard_socket.clone() },
            options.virtual_ip.as_ref().map(Place::new),
        );
        let archive = ArchivePlace {
            scope: options.scope.clone(),
            data_dir: options.instance.data_dir.clone(),
            instance: options.instance.clone(),
            socket: options.archive_socket.clone(),
        };
        Shell {
            archiver: Archiver::new(archive, shared.archive.clone()),
            chores: chores::Chores::default(),
            waiting: durability::Waiting::default(),
            in_place: in_place::Work::default(),
            pg: Pg::new(options.clone(), sender.clone()),
            storage: Storage::new(store, sender.clone(), crate::policy::ttl(&config)),
            watch,
            guard_state: guard.confirmed(),
            guard_said: GuardState::default(),
            promoting: guard::Promoting::default(),
            guard,
            virtual_ip: VirtualIp::start(options.virtual_ip.as_ref()),
            events,
            sender,
            config,
            config_revision: None,
            config_text: None,
            config_problem: None,
            reading: None,
            past: past::Past::default(),
            read_at: None,
            view_is_old: false,
            memory: Memory::default(),
            authority: None,
            heartbeats: shared.heartbeats.clone(),
            neighbours: heartbeat::Neighbours::default(),
            lasting: Lasting::load(&options.instance, &options.scope),
            unsaved: None,
            promising: None,
            armed: 0,
            configured: None,
            local: options.config_file.as_ref().and_then(|file| LocalConfig::load(file).ok()),
            configuring: false,
            published: publish::Published::default(),
            upkeep: upkeep::Upkeep::default(),
            pooler_role: pooler_role::PoolerRole::default(),
            checks: ailment::Checks::new(VolumeProbe::new(&options.instance)),
            waking: waking::Waking::default(),
            restarts: restart::Restarts::default(),
            roles: roles::Roles::default(),
            routers: routers::Routers::default(),
            stopping: false,
            upgrading: None,
            reinit: false,
            founding: founding::Founding::default(),
            last_why: "",
            socket_is_safe: false,
            wish: None,
            beginning: Some(boot_clock_ms() + heartbeat::BEGINNING),
            rules_due: 0,
            limits_due: 0,
            problem: None,
            watchdog_failure: None,
            shared,
            options,
        }
    }

    /// Runs until the agent is asked to stop and PostgreSQL has stopped, or to make way.
    ///
    /// # Errors
    /// When what is left of an earlier run cannot be taken over.
    pub async fn run(mut self) -> anyhow::Result<Ending> {
        self.pg.instance().prepare_run_dir()?;
        if self.options.stream_postgres_log {
            crate::postgres_log::stream(self.pg.instance(), &self.options.postgres_log)?;
        }
        self.pg.adopt()?;
        self.pg.look_at_data();
        self.pg.look();
        // What an earlier process of this agent told stays as it is: routers would go to another address for a moment.
        self.look_at_rules();
        self.storage.read();
        let heartbeats = self.heartbeats.clone();
        tokio::spawn(crate::heartbeat::follow(heartbeats.clone()));
        loop {
            let wake = self.round();
            if self.finished() {
                self.leave().await;
                return Ok(Ending::Stopped);
            }
            if self.makes_way() {
                return Ok(Ending::Upgrade);
            }
            if !self.rest(wake, &heartbeats).await? {
                return Ok(Ending::Stopped);
            }
        }
    }

    /// Until there is something to decide, at `wake` at the latest; false when nothing can come any more.
    async fn rest(&mut self, wake: Millis, heartbeats: &Heartbeats) -> anyhow::Result<bool> {
        let sleep = tokio::time::sleep_until(self.until(wake));
        tokio::pin!(sleep);
        let mut news = false;
        while !news {
            tokio::select! {
                event = self.events.recv() => {
                    // The shell holds a sender itself, so there is always a next event.
                    let Some(event) = event else { return Ok(false) };
                    news = self.take(event);
                    while let Ok(event) = self.events.try_recv() {
                        news |= self.take(event);
                    }
                }
                changed = self.watch.changed() => {
                    if changed.is_err() {
                        anyhow::bail!("the store's watch has ended");
                    }
                    self.storage.read();
                }
                _ = self.guard_state.changed() => news = self.guard_has_news(),
                () = heartbeats.woken() => news = true,
                () = &mut sleep => {
                    self.tick();
                    news = true;
                }
            }
        }
        Ok(true)
    }

    /// The moment to wake at. What is not near may be a little late, but not the end of our authority.
    fn until(&self, wake: Millis) -> Instant {
        let pause = Duration::from_millis(wake.saturating_sub(boot_clock_ms()).max(1));
        let late = wake + rhythm::SLOT.as_millis() as Millis;
        let exact = pause < 2 * rhythm::SLOT || self.authority.is_some_and(|until| until <= late);
        if exact { Instant::now() + pause } else { rhythm::slot_after(pause) }
    }

    /// Time has passed: look again at what tells nobody when it changes.
    fn tick(&mut self) {
        self.pg.notice_deleted_data();
        self.look_at_rules();
        if self.problem.is_some() {
            self.pg.look_at_data_again();
        }
        self.pg.look();
        self.save_again();
        // Nothing tells when a store that was away is back.
        let away = self.shared.store_error().is_some();
        if self.storage.committing.is_none() && (away || self.view_is_old && self.unsaved.is_none()) {
            self.storage.read();
        }
    }

    /// People edit the file by hand, too.
    fn look_at_rules(&mut self) {
        let now = boot_clock_ms();
        if now < self.rules_due {
            return;
        }
        // While it is not as it should be, the end of that matters.
        self.rules_due = if self.socket_is_safe { now + RULES_EVERY } else { now };
        self.socket_is_safe = !hba::is_unsafe_now(self.pg.instance());
    }

    fn policy(&self) -> Policy {
        crate::policy::policy(&self.options, &self.config)
    }

    /// Decides and acts; returns when to look again.
    fn round(&mut self) -> Millis {
        self.notice_waking();
        let now = boot_clock_ms();
        self.keep_watchdog();
        let decision = decide(&self.policy(), &self.memory, &self.observe(now));
        // While the view may be older than a change of ours, only what cannot wait is done.
        let restricted = self.view_is_old || self.storage.committing.is_some();
        self.speak(&decision, restricted);
        if !restricted {
            self.memory = decision.memory.clone();
        }
        self.shared.count_decision(decision.why.code);
        if decision.why.code != self.last_why && !restricted {
            self.last_why = decision.why.code;
            tracing::info!(why = decision.why.code, "{}", decision.why.text);
        }
        self.problem = decision
            .problem
            .clone()
            .or_else(|| self.storage.trouble())
            .or_else(|| self.shared.store_error().map(|error| format!("the store cannot be read: {error}")))
            .or_else(|| self.lasting.problem().map(ToOwned::to_owned))
            .or_else(|| self.config_problem.clone())
            .or_else(|| self.other_problem());
        for action in decision.actions {
            self.act(action, restricted);
        }
        self.keep_archive();
        let awaited = self.keep_durability(now);
        self.keep_chores(now);
        let replaced = self.keep_in_place(now);
        self.tell_guard(now);
        self.keep_virtual_ip();
        self.promise_if_asked(now);
        let restart = self.start_restart(now);
        self.storage.renew_member_if_due(now);
        self.look_at_limits(now);
        self.publish(now);
        self.check_health(now);
        self.keep_slots(now);
        self.keep_pooler_role(now);
        self.keep_certificates_and_log(now);
        let asked = self.look_for_routers(now);
        let rested = self.storage.rests_until(now).unwrap_or(Millis::MAX);
        let wake = decision.next_wake.min(restart).min(rested).min(asked).min(replaced).min(awaited);
        let wake = if restricted { wake.max(now + 20) } else { wake };
        self.waking.plan(wake);
        wake
    }

    /// The newest epoch is ours, and something gives us authority: the lease, or those who stand by us.
    fn leads(&self) -> bool {
        let ours =
            self.newest_sync().is_some_and(|sync| sync.leader == *self.options.name() && sync.released.is_none());
        ours && self.authority.is_some_and(|until| until > boot_clock_ms())
    }

    fn leader_name(&self) -> Option<&MemberName> {
        Some(&self.reading.as_ref()?.view.leader.as_ref()?.name)
    }
}

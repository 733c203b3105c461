//! What agents tell each other directly, and what they conclude from it.
//!
//! Every agent beats three times a second. A frame lies in the inbox of its addressee until that one looks, so frozen
//! members find old ones when they wake. The network loses, delays and doubles frames.

use std::collections::BTreeMap;

use matriarch_core::decide::{Evidence, Millis, Pulse, Stance, Support};
use matriarch_core::heartbeat::BEAT;
use matriarch_core::{Incarnation, MemberName};

use crate::event::AgentEvent;
use crate::mutation::Mutation;
use crate::node::NodeId;
use crate::server::Process;
use crate::world::World;

/// Silence that counts as a sign.
const SUSPECT_AFTER: Millis = 1000;
/// Whoever stood still for so long has not listened meanwhile.
const STOOD_STILL: Millis = 600;

/// One message from agent to agent.
#[derive(Clone, Debug)]
pub struct Frame {
    from: NodeId,
    /// Which process of it.
    process: u64,
    /// Which process of the addressee it answers.
    answers: Option<u64>,
    /// Counts frames of one machine, over all its processes.
    number: u64,
    arrives: Millis,
    sent: Millis,
    stance: Stance,
    incarnation: Option<Incarnation>,
    /// When the newest frame that the sender has of the addressee was sent.
    echo: Option<Millis>,
    /// The sender asks to be promised that the addressee does not take over.
    asks: bool,
    /// The promise, on the clock of the addressee.
    promised_until: Option<Millis>,
}

/// What one agent knows of another.
#[derive(Clone, Debug)]
struct Peer {
    process: u64,
    number: u64,
    /// When it was last heard.
    heard: Millis,
    sent: Millis,
    stance: Stance,
    /// Its ports refuse, since when.
    refused: Option<Millis>,
    support: Option<Support>,
    /// What we promised it, on its clock.
    promise: Option<Millis>,
}

/// The ear of one agent process.
#[derive(Debug, Default)]
pub struct Ear {
    inbox: Vec<Frame>,
    peers: BTreeMap<NodeId, Peer>,
    last_beat: Option<Millis>,
    pulse: Pulse,
}

impl World {
    /// Whether what one member sends another arrives.
    fn carries(&self, from: NodeId, to: NodeId) -> bool {
        !self.silenced.contains(&(from, to))
    }

    /// Both ports of a member refuse connections: its machine lives, its agent and its PostgreSQL do not.
    fn refuses(&self, node: NodeId, asker: NodeId) -> bool {
        let this = &self.nodes[node];
        let dead = this.moves() && !this.agent.alive && this.pg.process == Process::Stopped;
        dead && self.carries(node, asker) && self.carries(asker, node)
    }

    /// The processes of a member may all be gone: those who were connected to it try again and are refused.
    pub(crate) fn connections_reset(&mut self, node: NodeId) {
        for peer in 0..self.nodes.len() {
            if peer != node && self.refuses(node, peer) {
                let delay = self.random(1, 20);
                self.agent_after(peer, delay, AgentEvent::Reset(node));
            }
        }
    }

    pub(crate) fn reset(&mut self, node: NodeId, peer: NodeId) {
        if self.refuses(peer, node) {
            let now = self.clock(node);
            if let Some(known) = self.nodes[node].agent.ear.peers.get_mut(&peer) {
                known.refused.get_or_insert(now);
            }
        }
        self.feel_pulse(node);
    }

    pub(crate) fn beat(&mut self, node: NodeId) {
        let now = self.clock(node);
        self.listen(node);
        let ear = &mut self.nodes[node].agent.ear;
        if ear.last_beat.replace(now).is_some_and(|last| now > last + STOOD_STILL) {
            ear.peers.values_mut().for_each(|peer| peer.heard = now);
        }
        for peer in 0..self.nodes.len() {
            if peer != node {
                self.reset(node, peer);
                self.send_frame(node, peer);
            }
        }
        self.feel_pulse(node);
        self.agent_after(node, BEAT, AgentEvent::Beat);
    }

    fn send_frame(&mut self, from: NodeId, to: NodeId) {
        let number = self.unique();
        let mut arrives = self.now + self.random(1, 5);
        let mut copies = 1;
        if self.unsteady_beats {
            arrives += if self.chance(20) { self.random(200, 6000) } else { 0 };
            copies = if self.chance(25) { 0 } else { 1 + usize::from(self.chance(10)) };
        }
        if !self.nodes[to].agent.alive || !self.nodes[to].powered || !self.carries(from, to) {
            return;
        }
        let this = &self.nodes[from];
        let peer = this.agent.ear.peers.get(&to);
        let frame = Frame {
            from,
            process: this.agent.generation,
            answers: peer.map(|peer| peer.process),
            number,
            arrives,
            sent: self.clock(from),
            stance: this.agent.stance,
            incarnation: this.disk.dir().and_then(|dir| dir.incarnation.clone()),
            echo: peer.map(|peer| peer.sent),
            asks: this.agent.asks_promise,
            promised_until: peer.and_then(|peer| peer.promise),
        };
        for copy in 0..copies as Millis {
            let arrives = frame.arrives + copy;
            self.nodes[to].agent.ear.inbox.push(Frame { arrives, ..frame.clone() });
        }
    }

    /// Takes in what has arrived.
    pub(crate) fn listen(&mut self, node: NodeId) {
        let now = self.now;
        let (arrived, later) =
            std::mem::take(&mut self.nodes[node].agent.ear.inbox).into_iter().partition(|frame| frame.arrives <= now);
        self.nodes[node].agent.ear.inbox = later;
        let arrived: Vec<Frame> = arrived;
        for frame in arrived {
            self.hear(node, frame);
        }
    }

    fn hear(&mut self, node: NodeId, frame: Frame) {
        let (now, ttl, stance) = (self.clock(node), self.setup.ttl, self.nodes[node].agent.stance);
        let this = &mut self.nodes[node];
        // What was said to an earlier process says nothing to this one: its clock may have been another. Agents answer
        // each other over connections, which end with either.
        let mutation = self.setup.mutation;
        let believes = mutation == Some(Mutation::EarlierProcessHeard);
        let current = believes || frame.answers == Some(this.agent.generation);
        let on_arrival = mutation == Some(Mutation::HeardOnArrival);
        let echo = frame.echo.filter(|_| current).map(|sent| if on_arrival { now } else { sent });
        let promise = frame.promised_until.filter(|_| current);
        let known = this.agent.ear.peers.entry(frame.from).or_insert(Peer {
            process: frame.process,
            number: 0,
            heard: now,
            sent: 0,
            stance: Stance::Neutral,
            refused: None,
            support: None,
            promise: None,
        });
        if frame.number <= known.number {
            return;
        }
        if std::mem::replace(&mut known.process, frame.process) != frame.process && !believes {
            known.promise = None;
        }
        (known.number, known.heard, known.sent) = (frame.number, now, frame.sent);
        (known.stance, known.refused) = (frame.stance, None);
        // A promise binds as long as it says, whatever its giver does afterwards.
        let promised_until = promise.max(known.support.as_ref().and_then(|old| old.promised_until));
        let stands = match stance {
            Stance::Leads { epoch } if self.setup.mutation == Some(Mutation::PledgedStandBy) => {
                Stance::Follows { epoch }
            }
            _ => frame.stance,
        };
        match (stands, echo, frame.incarnation) {
            (Stance::Follows { epoch }, Some(heard), Some(incarnation)) => {
                known.support = Some(Support { incarnation, epoch, heard, promised_until });
            }
            _ => {
                if let Some(support) = &mut known.support {
                    support.promised_until = promised_until;
                }
            }
        }
        if let Stance::Leads { epoch } = frame.stance
            && frame.asks
            && stance == (Stance::Follows { epoch })
        {
            known.promise = Some(frame.sent + ttl);
            this.promised_until = this.promised_until.max(now + ttl);
        }
    }

    /// What is heard of the leader that the store names.
    fn pulse(&self, node: NodeId) -> Pulse {
        let this = &self.nodes[node];
        let Some(view) = this.agent.view.as_ref().map(|view| &view.cluster) else { return Pulse::Unknown };
        let Some(sync) = view.sync.as_ref().map(|sync| &sync.value) else { return Pulse::Unknown };
        let Some(peer) = self.find(&sync.leader).and_then(|leader| this.agent.ear.peers.get(&leader)) else {
            return Pulse::Unknown;
        };
        if let Some(since) = peer.refused {
            return Pulse::Suspected { since, evidence: Evidence::Refused };
        }
        let since = peer.heard + SUSPECT_AFTER;
        match peer.stance {
            _ if self.clock(node) >= since => Pulse::Suspected { since, evidence: Evidence::Silent },
            Stance::Leads { epoch } if epoch == sync.epoch => Pulse::Alive { epoch },
            _ => Pulse::Unknown,
        }
    }

    /// Has the agent look again when the pulse has changed.
    fn feel_pulse(&mut self, node: NodeId) {
        let pulse = self.pulse(node);
        if std::mem::replace(&mut self.nodes[node].agent.ear.pulse, pulse) != pulse {
            self.note(|| format!("{node}: {pulse:?}"));
            self.poke(node, 1);
        }
    }

    /// The pulse of the leader, and who stands by us.
    pub(crate) fn heard(&self, node: NodeId) -> (Pulse, BTreeMap<MemberName, Support>) {
        let peers = self.nodes[node].agent.ear.peers.iter();
        let support = peers.filter_map(|(peer, known)| Some((self.nodes[*peer].name.clone(), known.support.clone()?)));
        (self.pulse(node), support.collect())
    }
}

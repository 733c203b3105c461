//! Schedules that lead to one place: an order of steps that a safety rule is about, and that random faults hardly ever come
//! to. What exactly happens, and when, is random here too.

use matriarch_core::decide::{Millis, Zones};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::adoption::{adoption, strays};
use crate::fault::Fault;
use crate::node::NodeId;
use crate::profile::{Profile, pick};
use crate::trap::Trap;
use crate::world::{Setup, World};

/// When a fault begins, how long it lasts, and which.
pub(crate) type Timed = (Millis, Millis, Fault);

/// The clusters that these schedules are about.
pub(crate) fn directed_setup(rng: &mut SmallRng, profile: Profile, mut setup: Setup) -> Setup {
    let count = match profile {
        Profile::Newcomers | Profile::Pairs => 2,
        Profile::HeldUp | Profile::Watchdogs | Profile::Reboots | Profile::Lonely => *pick(rng, &[2, 3, 3]),
        Profile::Neighbours => 4,
        _ => 3,
    };
    setup.members = ["a", "b", "c", "d"][..count].iter().map(|name| (*name).to_owned()).collect();
    setup.nofailover.clear();
    setup.zones.clear();
    setup.clocks.truncate(count);
    setup.clocks.resize_with(if setup.clocks.is_empty() { 0 } else { count }, Default::default);
    setup.synchronous.zones = Zones::Ignore;
    setup.synchronous.from_members = count;
    setup.synchronous.needed = match profile {
        Profile::Newcomers | Profile::Watchdogs | Profile::Laggards | Profile::Reboots => 0,
        Profile::HeldUp => u32::from(count == 3),
        Profile::Neighbours => 2,
        Profile::Adoptions | Profile::Strays => *pick(rng, &[0, 1, 1]),
        _ => 1,
    };
    setup.unguarded = profile == Profile::HeldUp && count == 3 && rng.random_bool(0.7);
    if matches!(profile, Profile::SlowSettings | Profile::OldPledges) {
        // Who is away for a moment stays in the rule.
        setup.shrink_delay = 5000;
        setup.stream_timeout = 10;
    }
    if profile == Profile::Pairs {
        setup.synchronous.strict = true;
        setup.ttl = *pick(rng, &[3000, 5000]);
    }
    if profile == Profile::Halves {
        setup.shrink_delay = 500;
        setup.stream_timeout = 3;
        setup.ttl = *pick(rng, &[3000, 5000]);
    }
    if matches!(profile, Profile::Forgetters | Profile::Adoptions | Profile::Strays) {
        setup.synchronous.strict = false;
    }
    if profile == Profile::Lonely {
        setup.shrink_delay = 500;
        setup.stream_timeout = 3;
        setup.synchronous.strict = false;
        setup.ttl = *pick(rng, &[5000, 10_000]);
    }
    if profile == Profile::Laggards {
        setup.ttl = 3000;
        setup.max_lag = *pick(rng, &[3000, 10_000, 30_000]);
        setup.clients = 4;
    }
    if profile == Profile::Watchdogs {
        setup.watchdogs = true;
        setup.ttl = *pick(rng, &[5000, 5000, 9000]);
        setup.clients = 8;
    }
    if profile == Profile::Neighbours {
        setup.synchronous.zones = Zones::Require;
        setup.zones = ["here", "here", "here", "there"].map(str::to_owned).to_vec();
        setup.shrink_delay = 500;
        setup.clients = 8;
    }
    if profile == Profile::OldPrimaries {
        setup.ttl = 3000;
        setup.clients = 8;
    }
    if profile == Profile::LateChanges {
        setup.shrink_delay = 500;
        setup.synchronous.strict = false;
    }
    if profile == Profile::Newcomers {
        setup.ttl = *pick(rng, &[5000, 10_000, 10_000]);
    }
    setup
}

/// What happens in one round.
pub(crate) fn directed_faults(world: &mut World, rng: &mut SmallRng, profile: Profile) -> Vec<Timed> {
    let count = world.nodes.len();
    let primary = world.primary().unwrap_or(0);
    let other = (primary + rng.random_range(1..count.max(2))) % count;
    let third = (0..count).find(|node| *node != primary && *node != other).unwrap_or(other);
    let ttl = world.setup.ttl;
    match profile {
        Profile::Newcomers => newcomers(rng, ttl, primary, other),
        Profile::AcceptedLoss => accepted_loss(rng, [primary, other, third]),
        Profile::HeldUp if world.setup.synchronous.needed == 0 => held_start(rng, ttl, primary),
        Profile::HeldUp => held_promotions(rng, ttl, [primary, other, third]),
        Profile::SlowSettings => slow_settings(rng, [primary, other, third]),
        Profile::OldPrimaries => old_primary(rng, ttl, [primary, other, third]),
        Profile::LateChanges => late_change(rng, [primary, other, third]),
        Profile::Neighbours => neighbours(rng, primary),
        Profile::Reboots => reboots(rng, ttl, [primary, other, third]),
        Profile::Returners => returners(rng, [primary, other, third]),
        Profile::Forgetters => forgetters(rng, [primary, other, third]),
        Profile::Lonely => lonely(world, rng, [primary, other, third]),
        Profile::Pairs => pair(rng, ttl, primary, other),
        Profile::Halves => halves(world, rng, [primary, other, third]),
        Profile::Adoptions => adoption(world, rng),
        Profile::Strays => strays(rng, ttl, [primary, other, third]),
        Profile::Laggards => laggards(rng, ttl, [primary, other, third]),
        Profile::Watchdogs => watchdogs(rng, ttl, [primary, other, third]),
        Profile::CutPromotions => cut_promotion(rng, ttl, [primary, other, third]),
        _ => old_pledge(rng, [primary, other, third]),
    }
}

/// The lone leader either asks to admit the other, and hangs while that is under way; or never hears of it.
fn newcomers(rng: &mut SmallRng, ttl: Millis, leader: NodeId, newcomer: NodeId) -> Vec<Timed> {
    // Nothing has run there yet: this starts it.
    let joins = (rng.random_range(0..1000), 1, Fault::KillAgent(newcomer));
    let lasts = rng.random_range(ttl..3 * ttl);
    if rng.random_bool(0.3) {
        return vec![(rng.random_range(0..1000), 2 * lasts, Fault::CutOff(leader)), joins];
    }
    let late = if rng.random_bool(0.3) { Fault::DelayedRequests } else { Fault::LateStore };
    vec![(0, lasts, late), joins, (rng.random_range(1000..7000), 2 * lasts, Fault::FreezeAgent(leader))]
}

/// One voter is behind, the other one silent when the leader dies, and a person does not wait for it.
fn accepted_loss(rng: &mut SmallRng, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let dies = rng.random_range(800..2500);
    let behind = match rng.random_bool(0.5) {
        true => Fault::Cut(primary, other),
        false => Fault::SlowDisk(other, rng.random_range(500..3000)),
    };
    let death = if rng.random_bool(0.5) { Fault::PowerCut(primary) } else { Fault::KillNode(primary) };
    let silent = [Fault::FreezeAgent, Fault::CutOff, Fault::KillAgent, Fault::KillNode, Fault::PowerCut];
    let silent = pick(rng, &silent)(third);
    let on = if rng.random_bool(0.7) { other } else { third };
    vec![
        (rng.random_range(0..500), rng.random_range(1500..5000), behind),
        (dies, rng.random_range(8000..40_000), death),
        (dies - rng.random_range(0..500), rng.random_range(500..20_000), silent),
        (dies + rng.random_range(500..15_000), 1, Fault::AcceptLoss(on)),
    ]
}

/// Under the empty rule: the leader's PostgreSQL dies, and its start is held up until another leads.
fn held_start(rng: &mut SmallRng, ttl: Millis, primary: NodeId) -> Vec<Timed> {
    let held = ttl + rng.random_range(500..6000);
    let dies = rng.random_range(5..100);
    vec![
        (0, held, Fault::HoldStarts(primary)),
        (dies, 1, Fault::KillPostmaster(primary)),
        (dies + rng.random_range(20..1500), held + rng.random_range(0..4000), Fault::CutFromAll(primary)),
    ]
}

/// Under a rule: promotions are held up until the lead has gone to another, and agents die meanwhile.
fn held_promotions(rng: &mut SmallRng, ttl: Millis, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let dies = rng.random_range(0..500);
    let death = if rng.random_bool(0.5) { Fault::PowerCut(primary) } else { Fault::KillNode(primary) };
    let mut faults = vec![(dies, 3 * ttl, death)];
    for node in [other, third] {
        faults.push((0, ttl + rng.random_range(1000..10_000), Fault::HoldStarts(node)));
        let gone = dies + rng.random_range(800..4000);
        faults.push((gone, rng.random_range(50..ttl + 2000), Fault::KillAgent(node)));
    }
    faults
}

/// A member ends its stream and begins it again while its settings are still on their way; the other voter, which is ahead of
/// what the first has pledged, is cut off from the stream, and then holds the leader to be gone as well.
fn slow_settings(rng: &mut SmallRng, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let slow = Fault::SlowSettings(other, rng.random_range(800..3000));
    let mut faults = vec![(0, rng.random_range(10_000..20_000), slow)];
    let mut time = rng.random_range(0..500);
    for _ in 0..rng.random_range(2..6) {
        let silent = rng.random_range(1050..2500);
        faults.push((time, silent, Fault::Silence(primary, other)));
        time += silent + rng.random_range(350..2000);
    }
    let cut: Millis = rng.random_range(1500..8000);
    faults.push((cut, rng.random_range(2000..6000), Fault::Cut(primary, third)));
    let unheard = (cut + rng.random_range(0..3000)).saturating_sub(1000);
    faults.push((unheard, rng.random_range(1500..6000), Fault::Silence(primary, third)));
    faults
}

/// The leader drops a voter that is away, and is started anew before the store has got that; then the voter is back, and the
/// other one is away.
fn late_change(rng: &mut SmallRng, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let dies = rng.random_range(1000..4000);
    let back = dies + rng.random_range(0..600);
    let late = if rng.random_bool(0.5) { Fault::DelayedRequests } else { Fault::LateStore };
    vec![
        (0, dies, late),
        (0, back, Fault::Cut(primary, other)),
        (dies, rng.random_range(20..800), Fault::KillAgent(primary)),
        (back + rng.random_range(0..1500), rng.random_range(1000..5000), Fault::Cut(primary, third)),
    ]
}

/// A leader that nobody streams from writes on, and dies. Its successor acknowledges a little and dies too; the other voter hangs
/// until the old primary votes.
fn old_primary(rng: &mut SmallRng, ttl: Millis, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let dies = rng.random_range(300..1500);
    let next = dies + rng.random_range(1400..2500);
    let back = next + rng.random_range(0..2000);
    let hangs = ttl + rng.random_range(3000..7000);
    vec![
        (0, dies, Fault::Cut(primary, other)),
        (0, dies, Fault::Cut(primary, third)),
        (dies, next - dies - rng.random_range(50..350), Fault::Cut(other, third)),
        (dies, back - dies, Fault::PowerCut(primary)),
        (next, hangs + rng.random_range(4000..10_000), Fault::PowerCut(other)),
        (next - rng.random_range(0..300), hangs, Fault::FreezeAgent(third)),
    ]
}

/// A member pledges, withdraws that and confirms alone, while it cannot reach the store, which then shows the pledge again; the
/// other voter, which is ahead of that pledge, holds the leader to be gone.
fn old_pledge(rng: &mut SmallRng, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let heard = rng.random_range(2500..4500);
    let cut = heard + rng.random_range(400..1500);
    let away = cut + rng.random_range(0..800);
    let back = away + rng.random_range(0..600);
    let ago = back - rng.random_range(1400..heard);
    vec![
        (0, heard, Fault::Silence(primary, other)),
        (cut, rng.random_range(3000..6000), Fault::Cut(primary, third)),
        (away, rng.random_range(3000..6000), Fault::CutOff(other)),
        (back, 1, Fault::RestoreStore(ago)),
        (back - rng.random_range(0..900), rng.random_range(2500..6000), Fault::Silence(primary, third)),
    ]
}

/// Promotions are held up once they have opened their timelines, and then PostgreSQL dies. It is promoted again, and its machine
/// dies before anybody streams from it.
fn cut_promotion(rng: &mut SmallRng, ttl: Millis, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let dies = rng.random_range(0..500);
    let death = if rng.random_bool(0.5) { Fault::PowerCut(primary) } else { Fault::KillNode(primary) };
    let cut = dies + rng.random_range(1500..4500);
    let held = cut + rng.random_range(10..300);
    let next = held + rng.random_range(300..2500);
    let mut faults = vec![
        (dies, 3 * ttl, death),
        (0, next + rng.random_range(0..3000), Fault::Cut(other, third)),
        (next, ttl + rng.random_range(1000..6000), Fault::PowerCut(other)),
    ];
    for node in [other, third] {
        faults.push((0, held, Fault::HoldStarts(node)));
        let dead = if rng.random_bool(0.3) { Fault::KillNode(node) } else { Fault::KillPostmaster(node) };
        faults.push((cut, rng.random_range(50..500), dead));
    }
    faults
}

/// The neighbour that is preferred as a voter is away and back, again and again, and the voter elsewhere is the last to flush.
/// (Unless it leads: then it has no neighbours.)
fn neighbours(rng: &mut SmallRng, primary: NodeId) -> Vec<Timed> {
    const ELSEWHERE: NodeId = 3;
    let preferred = NodeId::from(primary == 0);
    let mut faults = Vec::new();
    let mut time = rng.random_range(0..500);
    for _ in 0..rng.random_range(2..5) {
        let away = rng.random_range(1000..2500);
        faults.push((time, away, Fault::KillNode(preferred)));
        time += away + rng.random_range(1500..4000);
    }
    faults.push((0, time, Fault::SlowDisk(ELSEWHERE, rng.random_range(30..200))));
    faults
}

/// The leader's machine stands still, while its lease is renewed or no more, and goes on once another leads. Others may not have
/// their watchdogs when their turn comes.
fn watchdogs(rng: &mut SmallRng, ttl: Millis, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let mut faults = Vec::new();
    let freezes = if rng.random_bool(0.5) {
        let cut = rng.random_range(0..1000);
        faults.push((cut, 2 * ttl, Fault::CutFromAll(primary)));
        cut + rng.random_range(ttl / 2..ttl)
    } else {
        rng.random_range(0..2000)
    };
    faults.push((freezes, rng.random_range(200..2 * ttl), Fault::Freeze(primary)));
    for node in [other, third] {
        if rng.random_bool(0.4) {
            faults.push((0, rng.random_range(ttl..4 * ttl), Fault::TakeWatchdog(node)));
        }
    }
    if rng.random_bool(0.4) {
        faults.push((freezes + rng.random_range(ttl..2 * ttl), rng.random_range(200..2 * ttl), Fault::Freeze(other)));
    }
    faults
}

/// Nobody streams from the leader when it dies. Or its successor, which nobody streams from either, dies as well, and it is back
/// with more than the third has, on the timeline that was left.
fn laggards(rng: &mut SmallRng, ttl: Millis, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let dies = rng.random_range(300..8000);
    let next = dies + ttl + rng.random_range(1500..8000);
    let back = next + rng.random_range(0..2000);
    let mut faults = vec![(0, dies, Fault::Cut(primary, third)), (dies, back - dies, Fault::PowerCut(primary))];
    let since = dies - rng.random_range(0..dies.min(2500));
    faults.push((since, next - since, Fault::Cut(primary, other)));
    if rng.random_bool(0.7) {
        faults.push((0, back + 10_000, Fault::Cut(other, third)));
        faults.push((next, rng.random_range(8000..16_000), Fault::PowerCut(other)));
    }
    faults
}

/// The leader cannot reach the store and asks for promises; then one of those who gave them boots, or the leader itself, which is
/// cut off from everybody once it is back.
fn reboots(rng: &mut SmallRng, ttl: Millis, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let boots = ttl / 2 + rng.random_range(300..ttl);
    let away = rng.random_range(100..1500);
    if rng.random_bool(0.5) {
        let mut faults = vec![(0, 3 * ttl, Fault::CutOff(primary)), (boots, away, Fault::PowerCut(other))];
        if third != other && rng.random_bool(0.3) {
            faults.push((boots, away, Fault::PowerCut(third)));
        }
        return faults;
    }
    let alone = boots + away + rng.random_range(1000..5000);
    vec![
        (0, boots + away, Fault::CutOff(primary)),
        (boots, away, Fault::PowerCut(primary)),
        (alone, 2 * ttl + rng.random_range(0..ttl), Fault::CutFromAll(primary)),
    ]
}

/// One voter is behind, the other one silent when the leader dies, and back when a person does not wait for it, over a slow store.
fn returners(rng: &mut SmallRng, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let dies = rng.random_range(800..2500);
    let accepts = dies + rng.random_range(12_000..20_000);
    let silent = dies - rng.random_range(0..500);
    let back = accepts + rng.random_range(0..500) - 400;
    let death = if rng.random_bool(0.5) { Fault::PowerCut(primary) } else { Fault::KillNode(primary) };
    let away = *pick(rng, &[Fault::CutOff, Fault::KillAgent, Fault::KillNode]);
    vec![
        (rng.random_range(0..500), dies, Fault::Cut(primary, other)),
        (dies, 30_000, death),
        (silent, back - silent, away(third)),
        (accepts - rng.random_range(0..200), rng.random_range(500..3000), Fault::LateStore),
        (accepts, 1, Fault::AcceptLoss(other)),
    ]
}

/// The lead is handed over, and the new leader acknowledges without the old one. It dies when the store goes back to before that;
/// perhaps a person does not wait for it.
fn forgetters(rng: &mut SmallRng, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let dies = rng.random_range(1500..4500);
    let ago = dies + rng.random_range(0..1500);
    let accepts = rng.random_bool(0.5);
    let away = if accepts { rng.random_range(20_000..40_000) } else { rng.random_range(10_000..20_000) };
    let loss = if accepts && rng.random_bool(0.4) { Fault::WipeStore } else { Fault::RestoreStore(ago) };
    let mut faults = vec![
        (0, 1, Fault::Switchover(Some(other))),
        (rng.random_range(500..1500), rng.random_range(8000..14_000), Fault::Cut(primary, other)),
        (dies, away, Fault::KillNode(other)),
        (dies + rng.random_range(0..20), 1, loss.clone()),
    ];
    if accepts {
        // In a wiped store nobody can say how far it reaches: a person has to know who voted.
        let on = if loss == Fault::WipeStore || rng.random_bool(0.5) { third } else { primary };
        faults.push((dies + rng.random_range(11_000..18_000), 1, Fault::AcceptLoss(on)));
        return faults;
    }
    let again = dies + rng.random_range(20..1000);
    faults.push((again, rng.random_range(50..1000), Fault::KillAgent(primary)));
    if rng.random_bool(0.5) {
        faults.push((again, rng.random_range(50..1000), Fault::KillAgent(third)));
    }
    faults
}

/// Nobody streams from the leader, though its voters hear it, until it has dropped them; its agent hangs after one of its steps.
fn lonely(world: &mut World, rng: &mut SmallRng, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let ttl = world.setup.ttl;
    let fault: fn(NodeId) -> Fault = if rng.random_bool(0.7) { Fault::FreezeAgent } else { Fault::KillAgent };
    world.trap = Some(Trap { steps: rng.random_range(1..=8), fault, lasts: rng.random_range(ttl / 2..2 * ttl) });
    let cut = rng.random_range(6000..12_000);
    let mut faults = vec![(0, cut, Fault::Cut(primary, other))];
    if third != other {
        faults.push((rng.random_range(0..2000), cut, Fault::Cut(primary, third)));
    }
    faults
}

/// The voter is made anew; before its copy is a voter, the leader can reach neither the store nor, perhaps, the copy.
fn pair(rng: &mut SmallRng, ttl: Millis, primary: NodeId, other: NodeId) -> Vec<Timed> {
    let lost = if rng.random_bool(0.5) { Fault::Wipe(other) } else { Fault::Reinit(other) };
    let cut = if rng.random_bool(0.5) { Fault::CutOff(primary) } else { Fault::CutFromAll(primary) };
    vec![(0, 1, lost), (rng.random_range(200..6000), 3 * ttl + rng.random_range(0..ttl), cut)]
}

/// What the leader has written by then may be in the store, and it is not told.
fn halves(world: &mut World, rng: &mut SmallRng, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let ttl = world.setup.ttl;
    let lasts = 3 * ttl + rng.random_range(0..ttl);
    world.trap = Some(Trap { steps: rng.random_range(1..=4), fault: Fault::StoreUnheard, lasts });
    vec![
        (0, rng.random_range(6000..20_000), Fault::Cut(primary, third)),
        (rng.random_range(1000..4500), 5 * ttl, Fault::CutOff(third)),
        (rng.random_range(3500..7000), 5 * ttl, Fault::Silence(primary, other)),
    ]
}

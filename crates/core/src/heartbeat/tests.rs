use proptest::prelude::*;

use super::*;

const AFTER: Millis = 1000;
const EPOCH: u64 = 7;
const LEADS: Answer = Answer { leads: Some(EPOCH), round_age: 10 };

/// A detector that has heard its leader each beat until `until`, and then.
fn heard(until: Millis) -> Detector {
    let mut detector = Detector::new(0, EPOCH, AFTER);
    for now in (until % BEAT..=until).step_by(BEAT as usize) {
        detector.answer(now, LEADS);
    }
    detector
}

/// Runs it, hearing nothing, until `until`.
fn listen(detector: &mut Detector, from: Millis, until: Millis) {
    for now in (from..until).step_by(BEAT as usize / 2) {
        detector.tick(now);
    }
    detector.tick(until);
}

fn evidence(detector: &Detector) -> Option<Evidence> {
    match detector.pulse() {
        Pulse::Suspected { evidence, .. } => Some(evidence),
        Pulse::Unknown | Pulse::Alive { .. } => None,
    }
}

#[test]
fn a_leader_that_falls_silent_is_suspected_and_forgiven() {
    let mut detector = heard(2000);
    assert_eq!(detector.pulse(), Pulse::Alive { epoch: EPOCH });
    listen(&mut detector, 2000, 2900);
    assert_eq!(evidence(&detector), None);
    assert_eq!(detector.deadline(), Some(3000));
    listen(&mut detector, 3000, 3000);
    assert_eq!(detector.pulse(), Pulse::Suspected { since: 3000, evidence: Evidence::Silent });
    detector.answer(3100, LEADS);
    assert_eq!(detector.pulse(), Pulse::Alive { epoch: EPOCH });
}

#[test]
fn two_refused_ports_are_enough_at_once_and_one_is_not() {
    let mut detector = heard(2000);
    detector.ports(2010, Port::Refuses, Port::Accepts);
    assert_eq!(detector.pulse(), Pulse::Unknown);
    // However long the agent is away, the lease decides.
    listen(&mut detector, 2010, 20_000);
    assert_eq!(evidence(&detector), None);
    detector.ports(20_000, Port::Refuses, Port::Refuses);
    assert_eq!(detector.pulse(), Pulse::Suspected { since: 20_000, evidence: Evidence::Refused });
}

#[test]
fn an_agent_that_comes_back_has_its_time_to_speak() {
    let mut detector = heard(2000);
    detector.ports(2010, Port::Refuses, Port::Accepts);
    listen(&mut detector, 2010, 6000);
    // It listens again and has nothing to say yet.
    detector.ports(6000, Port::Accepts, Port::Accepts);
    listen(&mut detector, 6000, 6900);
    assert_eq!(evidence(&detector), None);
    listen(&mut detector, 6900, 7000);
    assert_eq!(evidence(&detector), Some(Evidence::Silent));
}

#[test]
fn a_hung_loop_and_a_lost_lead_are_no_life() {
    for answer in [
        Answer { leads: Some(EPOCH), round_age: 5000 },
        Answer { leads: None, round_age: 0 },
        Answer { leads: Some(EPOCH - 1), round_age: 0 },
    ] {
        let mut detector = heard(2000);
        for now in (2000 + BEAT..3000 + BEAT).step_by(BEAT as usize) {
            detector.answer(now, answer);
        }
        assert_eq!(evidence(&detector), Some(Evidence::Silent), "{answer:?}");
    }
}

#[test]
fn a_newer_epoch_than_the_stores_is_life() {
    let mut detector = heard(2000);
    detector.answer(2200, Answer { leads: Some(EPOCH + 1), round_age: 0 });
    assert_eq!(detector.pulse(), Pulse::Alive { epoch: EPOCH + 1 });
}

#[test]
fn a_leader_never_heard_is_only_suspected_when_its_ports_refuse_for_a_while() {
    let mut detector = Detector::new(0, EPOCH, AFTER);
    listen(&mut detector, 0, 60_000);
    assert_eq!(detector.pulse(), Pulse::Unknown);
    let mut detector = Detector::new(0, EPOCH, AFTER);
    detector.ports(999, Port::Refuses, Port::Refuses);
    assert_eq!(detector.pulse(), Pulse::Unknown);
    detector.ports(1000, Port::Refuses, Port::Refuses);
    assert_eq!(evidence(&detector), Some(Evidence::Refused));
}

#[test]
fn our_own_pause_accuses_nobody() {
    let mut detector = heard(2000);
    // Stopped for ten seconds, or suspended.
    detector.tick(12_000);
    assert_eq!(detector.pulse(), Pulse::Alive { epoch: EPOCH });
    listen(&mut detector, 12_100, 12_900);
    assert_eq!(evidence(&detector), None);
    listen(&mut detector, 13_000, 13_000);
    assert_eq!(evidence(&detector), Some(Evidence::Silent));
}

#[test]
fn what_is_usual_here_is_no_silence() {
    let mut detector = Detector::new(0, EPOCH, AFTER);
    let mut now = 0;
    // Answers come in gaps of 0.7 s, while we run.
    for _ in 0..20 {
        listen(&mut detector, now, now + 600);
        now += 700;
        detector.answer(now, LEADS);
    }
    assert_eq!(detector.deadline(), Some(now + 2100));
    // Gaps of 5 s cannot be told from a dead leader for ever.
    let mut detector = heard(BEAT);
    detector.gaps.push_front(5000);
    assert_eq!(detector.deadline(), Some(BEAT + 3 * AFTER));
}

#[derive(Clone, Debug)]
enum Step {
    Wait(Millis),
    Answer(Answer),
    Ports(Port, Port),
}

fn step() -> impl Strategy<Value = Step> {
    let port = || prop_oneof![Just(Port::Accepts), Just(Port::Refuses), Just(Port::Silent)];
    let leads = prop_oneof![4 => Just(Some(EPOCH)), 1 => Just(None), 1 => Just(Some(EPOCH - 1))];
    prop_oneof![
        6 => (1..=3 * BEAT).prop_map(Step::Wait),
        4 => (leads, prop_oneof![4 => 0..500u64, 1 => 2000..9000u64])
            .prop_map(|(leads, round_age)| Step::Answer(Answer { leads, round_age })),
        1 => (port(), port()).prop_map(|(agent, postgres)| Step::Ports(agent, postgres)),
    ]
}

proptest! {
    #[test]
    fn no_suspicion_without_grounds_and_none_missed(steps in prop::collection::vec(step(), 1..200)) {
        let mut detector = Detector::new(0, EPOCH, AFTER);
        let mut now = 0;
        // Since when it may be called silent: the last life, or the last time that we did not run ourselves.
        let (mut alive, mut excuse, mut refused) = (false, 0, false);
        for step in steps {
            let before = evidence(&detector);
            match step {
                Step::Wait(time) => {
                    now += time;
                    if time > 2 * BEAT {
                        excuse = now;
                    }
                    detector.tick(now);
                }
                Step::Answer(answer) => {
                    detector.answer(now, answer);
                    if answer.leads == Some(EPOCH) && answer.round_age <= TICK + AFTER {
                        (alive, excuse, refused) = (true, now, false);
                        prop_assert_eq!(detector.pulse(), Pulse::Alive { epoch: EPOCH });
                    }
                }
                Step::Ports(agent, postgres) => {
                    detector.ports(now, agent, postgres);
                    refused |= (agent, postgres) == (Port::Refuses, Port::Refuses);
                }
            }
            match evidence(&detector) {
                Some(Evidence::Refused) => prop_assert!(refused),
                Some(Evidence::Silent) if before != Some(Evidence::Silent) => {
                    prop_assert!(alive && now >= excuse + AFTER);
                }
                _ => {}
            }
        }
        // Whatever came before: once heard, and then silent while we run, it is suspected in bounded time.
        detector.answer(now, LEADS);
        listen(&mut detector, now, now + 3 * AFTER);
        prop_assert_eq!(evidence(&detector), Some(Evidence::Silent));
    }

    #[test]
    fn silence_shorter_than_allowed_is_never_a_suspicion(gaps in prop::collection::vec(1..AFTER, 1..100)) {
        let mut detector = Detector::new(0, EPOCH, AFTER);
        let mut now = 0;
        for gap in gaps {
            detector.answer(now, LEADS);
            for at in (now..now + gap).step_by(50) {
                detector.tick(at);
                prop_assert_eq!(evidence(&detector), None);
            }
            now += gap;
        }
    }
}

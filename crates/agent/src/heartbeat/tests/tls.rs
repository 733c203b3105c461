//! Heartbeats between members whose interfaces speak TLS, and those of which not all do yet.

use std::path::Path;

use matriarch_testkit::certificates::Authority;
use matriarch_tls::{ServerFiles, TlsFiles, VerifyClient};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// A leader that wants certificates, the authority of all, and what the leader shows.
async fn leader(dir: &Path) -> (Agent, Authority, Arc<ServerTls>) {
    let authority = Authority::new(dir);
    authority.issue("member", DAY);
    authority.issue("server", DAY);
    let (cert_file, key_file) = (authority.cert("server"), Some(authority.key("server")));
    let files = ServerFiles { cert_file, key_file, ca_file: Some(authority.ca()), verify: VerifyClient::Required };
    let hub = member("a");
    hub.say(says(Stance::Leads { epoch: 5 }));
    let auth = Auth::token(TOKEN).with_certificates();
    let tls = ServerTls::open(files).unwrap();
    (Agent::start_tls(hub, auth, Some(tls.clone())).await, authority, tls)
}

fn peers(authority: &Authority, shows: bool) -> PeerTls {
    let shown = |file| if shows { Some(file) } else { None };
    let (cert_file, key_file) = (shown(authority.cert("member")), shown(authority.key("member")));
    PeerTls { files: TlsFiles { ca_file: Some(authority.ca()), cert_file, key_file }, insecure: false }
}

#[tokio::test]
async fn a_leader_is_heard_over_tls_and_hears() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, authority, _) = leader(dir.path()).await;
    let follower = member_with("b", peers(&authority, true));
    follower.say(says(Stance::Follows { epoch: 5 }));
    let following = tokio::spawn(follow(follower.clone()));
    follower.listen_to(Some(Target { tls: true, ..agent.target(5, "127.0.0.1:1") }));
    until("the leader lives", &follower, |hub| hub.pulse() == Pulse::Alive { epoch: 5 }).await;
    until("support", &agent.hub, |hub| hub.support().contains_key(&name("b"))).await;
    // What is to be said at once is.
    agent.hub.say(Said { asks: true, ..says(Stance::Leads { epoch: 5 }) });
    until("the question", &follower, |hub| hub.asked().is_some()).await;
    let asked = follower.asked().unwrap();
    follower.promise(asked, 4000);
    until("the promise", &agent.hub, |hub| hub.support()[&name("b")].promised_until.is_some()).await;
    following.abort();
}

/// What comes of an attempt to be admitted.
async fn refused(agent: &Agent, follower: Arc<Heartbeats>, tls: bool) -> String {
    let target = Arc::new(Target { tls, ..agent.target(5, "127.0.0.1:1") });
    match link::attempt(follower, target).await {
        link::Attempt::Refused(why) | link::Attempt::NoTls(why) => why,
        link::Attempt::Up(_) => "admitted".to_owned(),
        link::Attempt::Failed(..) => "away".to_owned(),
    }
}

/// An agent that answers is there, whatever comes of TLS: nobody is suspected for that.
#[tokio::test]
async fn whoever_is_not_admitted_knows_why_and_suspects_nobody() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (agent, authority, _) = leader(dir.path()).await;
    let foreign = Authority::new(other.path());
    let plain = Agent::start(member("c"), Auth::token(TOKEN)).await;
    for (agent, peers, tls, words) in [
        (&agent, peers(&authority, true), true, "admitted"),
        (&agent, peers(&authority, false), true, "wants a client's certificate (verify_client)"),
        (
            &agent,
            PeerTls { files: TlsFiles { ca_file: Some(foreign.ca()), ..TlsFiles::default() }, insecure: false },
            true,
            "authority that is not trusted: name that authority with ctl.cacert",
        ),
        (&agent, peers(&authority, true), false, "this port speaks TLS"),
        (&plain, peers(&authority, true), true, "it does not speak TLS there"),
        (&plain, peers(&foreign, true), true, "member.pem cannot be read"),
    ] {
        let said = refused(agent, member_with("b", peers), tls).await;
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// Its certificate has ended, say, and then its connection.
#[tokio::test]
async fn a_leader_that_was_heard_and_cannot_be_understood_any_more_is_not_suspected() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (agent, authority, tls) = leader(dir.path()).await;
    let follower = member_with("b", peers(&authority, true));
    follower.suspect_after(300);
    tokio::spawn(follow(follower.clone()));
    let target = Target { tls: true, ..agent.target(5, "127.0.0.1:1") };
    follower.listen_to(Some(target.clone()));
    until("the leader lives", &follower, |hub| hub.pulse() == Pulse::Alive { epoch: 5 }).await;

    let foreign = Authority::new(other.path());
    foreign.issue("server", DAY);
    std::fs::copy(foreign.cert("server"), authority.cert("server")).unwrap();
    std::fs::copy(foreign.key("server"), authority.key("server")).unwrap();
    tls.look();
    assert_eq!(tls.problem(), None);
    // A newer connection of the same member ends the one that there is.
    let believer = member_with("b", PeerTls { insecure: true, ..peers(&authority, true) });
    let newer = link::attempt(believer, Arc::new(target)).await;
    assert!(matches!(newer, link::Attempt::Up(_)), "whoever believes it is admitted");
    until("it is not understood", &follower, |hub| hub.pulse() == Pulse::Unknown).await;
    // Three times what a silence must last.
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(follower.pulse(), Pulse::Unknown);
}

//! Hosts made of namespaces: what is cut is cut, in that direction only, and what is healed is whole.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use matriarch_testkit::dir::TestDir;
use matriarch_testkit::lab::{Clock, Lab, Node, Silence};
use matriarch_testkit::process::{Running, eventually};

const LIMIT: Duration = Duration::from_secs(60);
/// Listens, and answers each connection with a greeting.
const GREETER: &str = "import socket\ns = socket.create_server(('', 7000))\nwhile True:\n    c, _ = s.accept()\n    c.sendall(b'hello')\n    c.close()\n";
const ASK: &str = "import socket, sys\ns = socket.create_connection((sys.argv[1], 7000), 1)\ns.settimeout(1)\nassert s.recv(5) == b'hello'\n";

fn greeter(node: &Node, dir: &TestDir) -> Running {
    let mut command = node.command("/usr/bin/python3");
    command.args(["-c", GREETER]);
    Running::start(command, &dir.join(format!("{}.log", node.name()))).expect("python3 runs")
}

fn hears(from: &Node, to: &Node) -> bool {
    let mut ask = from.command("/usr/bin/python3");
    ask.args(["-c", ASK, to.address()]).stderr(Stdio::null()).status().expect("python3 runs").success()
}

/// Waits until each hears the other one: on a busy machine an answer may take longer than [`hears`] waits.
fn all_hear(pairs: &[(&Node, &Node)]) {
    for (from, to) in pairs {
        eventually(&format!("{} hears {}", from.name(), to.name()), LIMIT, || hears(from, to));
    }
}

fn greeted(address: &str) -> std::io::Result<()> {
    let address: SocketAddr = format!("{address}:7000").parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0; 5])
}

#[test]
fn cuts_go_one_way_or_both_and_heal() {
    let Some(mut lab) = Lab::build().unwrap() else { return };
    let dir = TestDir::new("lab");
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.host(name, Clock::default()).unwrap());
    let greeters = [&a, &b, &c].map(|node| greeter(node, &dir));
    for node in [&a, &b, &c] {
        eventually("everybody greets", LIMIT, || greeted(node.address()).is_ok());
    }
    all_hear(&[(&a, &b), (&b, &a), (&b, &c)]);

    a.cut(b.address(), Silence::Dropped).unwrap();
    assert!(!hears(&a, &b) && !hears(&b, &a), "a pair is apart");
    // And only that pair.
    all_hear(&[(&a, &c), (&b, &c)]);
    eventually("the outside is greeted", LIMIT, || greeted(a.address()).is_ok());
    a.heal().unwrap();
    all_hear(&[(&a, &b)]);

    for one_way in [Node::deafen as fn(&Node, &str) -> _, Node::mute] {
        one_way(&a, b.address()).unwrap();
        assert!(!hears(&a, &b) && !hears(&b, &a), "TCP needs both directions");
        all_hear(&[(&a, &c)]);
        a.heal().unwrap();
        all_hear(&[(&a, &b)]);
    }

    a.isolate(Silence::Unreachable).unwrap();
    assert!(!hears(&b, &a) && !hears(&a, &b) && greeted(a.address()).is_err());
    let refused = a.command("/usr/bin/python3").args(["-c", ASK, b.address()]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("No route to host"), "{refused:?}");
    a.heal().unwrap();
    all_hear(&[(&b, &a)]);
    eventually("the outside is greeted again", LIMIT, || greeted(a.address()).is_ok());
    drop(greeters);
}

#[test]
fn a_host_freezes_and_loses_its_power_as_a_whole() {
    let Some(mut lab) = Lab::build().unwrap() else { return };
    let dir = TestDir::new("lab");
    let node = lab.host("frozen", Clock::default()).unwrap();
    let mut greeter = greeter(&node, &dir);
    eventually("it greets", LIMIT, || greeted(node.address()).is_ok());
    assert!(node.processes().contains(&greeter.pid()), "the pid is kept on the way in");

    node.freeze().unwrap();
    let error = greeted(node.address()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "its kernel accepts, and nobody answers");
    node.thaw().unwrap();
    eventually("it greets again", LIMIT, || greeted(node.address()).is_ok());

    node.power_cut().unwrap();
    greeter.wait(LIMIT);
    assert!(node.processes().is_empty());
    let error = greeted(node.address()).unwrap_err();
    assert_ne!(error.kind(), std::io::ErrorKind::ConnectionRefused, "a dead host does not even refuse");
    node.heal().unwrap();
    let refused = || greeted(node.address()).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    eventually("the network is back", LIMIT, refused);
}

#[test]
fn a_host_has_a_name_an_identity_and_clocks_of_its_own() {
    let Some(mut lab) = Lab::build().unwrap() else { return };
    let plain = lab.host("plain", Clock::default()).unwrap();
    let early = lab.host("early", Clock { boot: 7200, monotonic: 3600 }).unwrap();
    let says = |node: &Node, script: &str| {
        let output = node.command("sh").args(["-c", script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(says(&plain, "hostname"), "plain");
    assert_ne!(says(&plain, "cat /etc/machine-id"), std::fs::read_to_string("/etc/machine-id").unwrap().trim());
    assert_ne!(says(&plain, "cat /etc/machine-id"), says(&early, "cat /etc/machine-id"));
    let uptime = |node: &Node| -> f64 { says(node, "cut -d' ' -f1 /proc/uptime").parse().unwrap() };
    let difference = uptime(&early) - uptime(&plain);
    assert!((7190.0..7260.0).contains(&difference), "{difference}");
}

#[test]
fn nothing_is_left_behind() {
    let Some(mut lab) = Lab::build().unwrap() else { return };
    let gateway = lab.gateway();
    // Another lab may be given the number and so the names of this one at once, but not those that the kernel counts.
    let bridge = interface_with(&gateway).expect("the lab has a bridge");
    let node = lab.host("gone", Clock::default()).unwrap();
    let mut sleeper = node.command("sleep").arg("600").spawn().unwrap();
    let pid = i32::try_from(sleeper.id()).unwrap();
    eventually("it sleeps", LIMIT, || node.processes().contains(&pid));
    drop((node, lab));
    assert!(!sleeper.wait().unwrap().success(), "it was killed");
    assert_ne!(interface_with(&gateway), Some(bridge), "the bridge is still there");
}

/// The number that the kernel has given to the interface with an address.
fn interface_with(address: &str) -> Option<u32> {
    let output = std::process::Command::new("ip").args(["-o", "address"]).output().expect("ip runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains(&format!(" {address}/")))?;
    line.split(':').next()?.trim().parse().ok()
}

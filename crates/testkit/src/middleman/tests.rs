#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::{Fault, Middleman};

/// Answers every request with this body, in chunks, and counts them by being asked.
fn server(body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let size = body.len();
            let _ =
                write!(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n");
        }
    });
    format!("http://{address}")
}

/// What comes back for one request on a connection of its own.
fn ask(middleman: &Middleman) -> String {
    let mut stream = TcpStream::connect(middleman.endpoint().trim_start_matches("http://")).unwrap();
    write!(stream, "GET /?list-type=2 HTTP/1.1\r\nHost: x\r\nX-One: 1\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn each_fault_is_what_it_says() {
    let list = "<List><Contents>a</Contents><Contents>b</Contents></List>";
    let middleman = Middleman::before(&server(list)).unwrap();
    let whole = ask(&middleman);
    assert!(whole.starts_with("HTTP/1.1 200") && whole.ends_with(list), "{whole}");
    let length = format!("content-length: {}", list.len());
    assert!(whole.contains(&length), "{whole}");
    let seen = middleman.seen();
    assert_eq!((seen.len(), seen[0].header("x-one"), seen[0].is_list()), (1, Some("1"), true));
    let with = |fault: Fault| {
        middleman.once(0, fault);
        let answer = ask(&middleman);
        assert_eq!(middleman.seen().len(), 1);
        answer
    };
    assert_eq!(with(Fault::Before), "");
    assert_eq!(with(Fault::Torn), "");
    assert_eq!(with(Fault::After), "");
    assert_eq!(with(Fault::Hang(Duration::from_millis(20))), "");
    assert!(with(Fault::Status(503)).contains("503 SlowDown"));
    assert!(with(Fault::StatusAfter(412)).contains("<Code>PreconditionFailed</Code>"));
    let cut = with(Fault::CutOff);
    assert!(cut.contains(&length) && cut.ends_with(&list[..list.len() / 2]), "{cut}");
    let short = with(Fault::Short);
    assert!(short.contains(&format!("content-length: {}", list.len() / 2)), "{short}");
    assert!(!with(Fault::Flipped).ends_with(list));
    assert!(with(Fault::ListLacks).ends_with("<List><Contents>a</Contents></List>"));
    assert!(with(Fault::ListEmpty).ends_with("<List></List>"));
    middleman.well();
    assert!(ask(&middleman).ends_with(list));
}

//! A panic planted at every place that a request passes, and in a shard's own affairs: what its client sees, what is
//! logged and counted, what serves on, and that nothing of it is left.
//!
//! The hook that logs panics is the process's: each test runs in a process of its own, whose words are looked at.

use std::io::ErrorKind;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, channel};

use selvedge_runtime::Trap;

use super::*;
use crate::shard::Letter;
use crate::upstream::breaker::Limit;

/// Set in the process whose panics are looked at.
const CHILD: &str = "SELVEDGE_TEST_PANICS";

/// Runs the test once more, in a process of its own; the answer is what that says. `None`: this is it.
fn in_child(test: &str) -> Option<String> {
    if std::env::var_os(CHILD).is_some() {
        log_panics();
        return None;
    }
    let name = format!("server::tests::panics::{test}");
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", &name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("this test again");
    let said = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    Some(said.into_owned())
}

/// What a client sees that sends `request` at once and reads to the end.
fn exchange(server: &Server, request: &str) -> String {
    let mut stream = server.connect();
    // A connection that ends before it was asked anything may refuse the question.
    let _ended = stream.write_all(request.as_bytes());
    rest(&mut stream)
}

/// Everything up to the end of the connection, and whether that was a reset.
fn rest(stream: &mut TcpStream) -> String {
    let (mut got, mut some) = (Vec::new(), [0; 4096]);
    let end = loop {
        if got == FAILED.as_bytes() {
            // The proxy leaves time to read it.
            break "";
        }
        match stream.read(&mut some) {
            Ok(0) => break "",
            Ok(n) => got.extend_from_slice(&some[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break "[reset]",
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&got)),
        }
    };
    String::from_utf8_lossy(&got).into_owned() + end
}

/// An upstream whose connections are named `clean` until they carry a request to `.../panic`, and `tainted` then. A
/// request to `.../slow/...` is answered by half, after one to `.../bye/...` the connection ends; the rest comes, or
/// the end, when `go` says so.
fn telling_upstream(go: Receiver<()>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let go = Arc::new(std::sync::Mutex::new(go));
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let go = Arc::clone(&go);
            std::thread::spawn(move || answer_all(socket, &go));
        }
    });
    address
}

fn answer_all(mut socket: TcpStream, go: &std::sync::Mutex<Receiver<()>>) {
    let (mut name, mut got, mut some) = ("clean", String::new(), [0; 4096]);
    while let Ok(n) = socket.read(&mut some)
        && n > 0
    {
        got.push_str(&String::from_utf8_lossy(&some[..n]));
        let whole =
            if got.contains("chunked") { got.ends_with("\r\n0\r\n\r\n") } else { got.ends_with("\r\n\r\n") };
        if !whole {
            continue;
        }
        let path = got.split(' ').nth(1).unwrap_or("").to_owned();
        got.clear();
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = format!("{:x}\r\n{name}\r\n", name.len());
        if path.ends_with("/panic") {
            name = "tainted";
        }
        let (first, last) = if path.contains("/slow/") {
            (format!("{head}{chunk}"), "0\r\n\r\n".to_owned())
        } else {
            (String::new(), format!("{head}{chunk}0\r\n\r\n"))
        };
        if socket.write_all(first.as_bytes()).is_err() {
            return;
        }
        if !first.is_empty() {
            let _the_test_is_over = go.lock().expect("not poisoned").recv();
        }
        if socket.write_all(last.as_bytes()).is_err() {
            return;
        }
        if path.contains("/bye/") {
            let _the_test_is_over = go.lock().expect("not poisoned").recv();
            return;
        }
    }
}

/// A request that passes every place.
const VICTIM: &str = "POST /up/panic HTTP/1.1\r\nhost: h\r\nx-request-id: id-of-it\r\nconnection: close\r\n\
    transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
const ASK_UP: &str = "GET /up HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";

const FAILED: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

struct Place {
    name: &'static str,
    /// Of the test's filter, where the panic is its doing.
    script: &'static str,
    /// What its client sees begins so.
    sees: &'static str,
    /// How the log has it. Empty: no line.
    log: &'static str,
}

const fn hook(name: &'static str, script: &'static str) -> Place {
    Place { name, script, sees: FAILED, log: "/up/panic 500 - panic" }
}

/// Where the head of the response has gone out.
const fn broken(name: &'static str, script: &'static str) -> Place {
    Place { name, script, sees: "HTTP/1.1 200 OK\r\n", log: "/up/panic 200 - panic" }
}

const fn code(name: &'static str) -> Place {
    hook(name, "")
}

const PLACES: &[Place] = &[
    hook("request_wants", "request_wants=panic"),
    hook("request_head", "request_head=panic"),
    hook("request_chunk", "request_wants=chunks request_chunk=panic"),
    hook("request_trailers", "request_trailers=panic"),
    hook("response_wants", "response_wants=panic"),
    hook("response_head", "response_head=panic"),
    broken("response_chunk", "response_wants=chunks response_chunk=panic"),
    broken("response_trailers", "response_trailers=panic"),
    // Nobody knows yet what was asked.
    Place { name: "admit", script: "", sees: "", log: "" },
    Place { name: "request head", script: "", sees: "", log: "" },
    code("request body"),
    code("request encoding"),
    code("response head"),
    code("response body"),
    code("response encoding"),
    code("route"),
    code("pool take"),
    code("pool wait"),
    Place {
        name: "pool connect",
        script: "",
        sees: "HTTP/1.1 503 Service Unavailable\r\n",
        log: "/up/panic 503 UF upstream_reset_before_response_started{local_connection_failure}",
    },
    code("pool give"),
    // The response has gone out; the line is lost.
    Place { name: "access log", script: "", sees: "HTTP/1.1 200 OK\r\n", log: "" },
];

#[test]
fn a_panic_ends_its_request_only() {
    let Some(said) = in_child("a_panic_ends_its_request_only") else {
        for driver in ["epoll", "uring"] {
            PLACES.iter().for_each(|place| panics_at(driver, place));
        }
        return;
    };
    for Place { name, log, .. } in PLACES {
        let line = said.lines().find(|l| l.contains(&format!("planted in {name}")));
        let line = line.unwrap_or_else(|| panic!("{name}: {said}"));
        assert!(line.contains("[critical][assert]") && line.contains(".rs:"), "{line}");
        if log.ends_with(" panic") {
            let after = said.lines().skip_while(|l| !l.contains(&format!("planted in {name}"))).nth(1);
            let told = after.is_some_and(|l| l.contains("ended request id-of-it (POST /up/panic), route "));
            assert!(told, "{name}: {after:?}");
        }
    }
}

fn panics_at(driver: &str, place: &Place) {
    let what = format!("{driver}, {}", place.name);
    let log = std::env::temp_dir().join(format!("selvedge-panics-{}-{driver}", std::process::id()));
    let trap = Trap::at(place.name);
    let (_go, told) = channel();
    let config = yaml(telling_upstream(told), &log.display().to_string());
    let probe = Some(place.script).filter(|s| !s.is_empty());
    let Some(server) = Server::start(driver, "1", &config, probe, Planted::trap(trap)) else { return };
    let mut bystander = server.connect();
    if place.name != "access log" {
        assert_eq!(ask(&mut bystander, "/"), "hi", "{what}");
    }
    if matches!(place.name, "pool take" | "pool give") {
        // The victim is to find a connection that is idle.
        assert!(exchange(&server, ASK_UP).contains("clean"), "{what}");
    }
    trap.arm();
    let seen = exchange(&server, VICTIM);
    let breaks = place.log == "/up/panic 200 - panic";
    let (said, reset) = seen.strip_suffix("[reset]").map_or((&*seen, false), |said| (said, true));
    assert!(said.starts_with(place.sees), "{what}: {seen:?}");
    match place.sees {
        // What it has sent is unread: the end may be a reset.
        "" => assert_eq!(said, "", "{what}"),
        _ => assert_eq!(reset, breaks, "{what}: {seen:?}"),
    }
    assert_eq!(trap.is_armed(), !place.script.is_empty(), "{what}");
    server.until("server.selvedge.panics", 1);
    assert_eq!(ask(&mut bystander, "/"), "hi", "{what}");
    // It was given back before.
    let survives = breaks || place.name == "access log";
    for _ in 0..2 {
        let seen = exchange(&server, ASK_UP);
        assert!(seen.contains("clean") != survives, "{what}: {seen}");
    }
    drop(bystander);
    at_rest(&server, &what);
    server.end();
    let lines = std::fs::read_to_string(&log).expect("an access log");
    std::fs::remove_file(&log).expect("removed");
    let victims: Vec<_> = lines.lines().filter(|l| l.starts_with("/up/panic")).collect();
    let wanted: &[&str] = if place.log.is_empty() { &[] } else { &[place.log] };
    assert_eq!(victims, wanted, "{what}: {lines}");
}

/// Nothing is left of any request: no gauge, no place under a limit.
fn at_rest(server: &Server, what: &str) {
    server.until("http.main.downstream_cx_active", 0);
    let active = |name: &str| name.ends_with("_active") && !name.ends_with("upstream_cx_active");
    for row in server.core.process.registry.rows(false).iter().filter(|r| active(&r.name)) {
        assert_eq!(row.value, 0, "{what}: {}", row.name);
    }
    let epoch = server.core.process.epoch();
    let breakers = &epoch.clusters[0].breakers;
    for limit in [Limit::Requests, Limit::Pending] {
        assert_eq!(breakers.get(0, limit), 0, "{what}: {limit:?}");
    }
    let open = u64::from(breakers.get(0, Limit::Connections));
    assert_eq!(open, server.stat("cluster.up.upstream_cx_active"), "{what}");
    assert!(open <= 1, "{what}: {open} connections");
    assert_eq!(server.core.process.server.connections.load(Relaxed), 0, "{what}");
}

/// What has gone out is not made to look whole.
#[test]
fn a_panic_in_the_middle_of_a_response_breaks_it_visibly() {
    let Some(_) = in_child("a_panic_in_the_middle_of_a_response_breaks_it_visibly") else {
        for (driver, version) in [("epoll", "1.1"), ("epoll", "1.0"), ("uring", "1.1"), ("uring", "1.0")] {
            let what = format!("{driver}, {version}");
            let trap = Trap::at("response body");
            let (go, told) = channel();
            let yaml = yaml(telling_upstream(told), "/dev/null").replace(
                "stat_prefix: main",
                "stat_prefix: main\n          http_protocol_options: {accept_http_10: true}",
            );
            let Some(server) = Server::start(driver, "1", &yaml, None, Planted::trap(trap)) else { return };
            let mut victim = server.connect();
            let request = format!("GET /up/slow/panic HTTP/{version}\r\nhost: h\r\n\r\n");
            victim.write_all(request.as_bytes()).expect("sent");
            let mut begun = Vec::new();
            while !begun.windows(5).any(|w| w == b"clean") {
                let mut one = [0];
                victim.read_exact(&mut one).expect("half an answer");
                begun.push(one[0]);
            }
            trap.arm();
            go.send(()).expect("an upstream");
            let end = rest(&mut victim);
            assert!(end.ends_with("[reset]") && !end.contains("0\r\n\r\n"), "{what}: {end:?}");
            server.until("server.selvedge.panics", 1);
            assert!(exchange(&server, ASK_UP).contains("clean"), "{what}");
            at_rest(&server, &what);
            server.end();
        }
        return;
    };
}

/// The reaper sees to idle connections for ever, whatever one of them brings about.
#[test]
fn idle_connections_are_seen_to_after_a_panic() {
    let Some(_) = in_child("idle_connections_are_seen_to_after_a_panic") else {
        for driver in ["epoll", "uring"] {
            let trap = Trap::at("reaper");
            trap.arm();
            let (go, told) = channel();
            let yaml = yaml(telling_upstream(told), "/dev/null");
            let Some(server) = Server::start(driver, "1", &yaml, None, Planted::trap(trap)) else { return };
            let bye = ASK_UP.replace("/up", "/up/bye/");
            assert!(exchange(&server, &bye).contains("clean"), "{driver}");
            go.send(()).expect("an upstream");
            server.until("server.selvedge.panics", 1);
            // The one that it missed is found dead when it is wanted, the next one is not missed.
            assert!(exchange(&server, &bye).contains("clean"), "{driver}");
            go.send(()).expect("an upstream");
            server.until("cluster.up.upstream_cx_destroy", 2);
            at_rest(&server, driver);
            server.end();
        }
        return;
    };
}

/// A shard that cannot go on takes no more connections and lets those that it has go; the others serve.
#[test]
fn a_shard_that_cannot_go_on_leaves_the_others_serving() {
    let Some(said) = in_child("a_shard_that_cannot_go_on_leaves_the_others_serving") else {
        for driver in ["epoll", "uring"] {
            for reuse_port in [true, false] {
                a_shard_leaves(driver, reuse_port);
                a_shard_falls(driver, reuse_port);
            }
        }
        return;
    };
    assert!(said.contains("cannot go on after a panic: it takes no more connections"), "{said}");
    assert!(said.contains("cannot go on after a panic: its connections are closed"), "{said}");
}

fn two_shards(driver: &str, reuse_port: bool, trap: &'static Trap) -> Option<Server> {
    let (_go, told) = channel();
    let yaml = yaml(telling_upstream(told), "/dev/null")
        .replace("- name: main", &format!("- name: main\n    enable_reuse_port: {reuse_port}"));
    Server::start(driver, "2", &yaml, None, Planted::trap(trap))
}

/// By shard: how many connections it has.
fn held(server: &Server) -> [u64; 2] {
    let rows = server.core.process.registry.rows(false);
    // A shard that has not begun yet has none.
    let of = |n| rows.iter().find(|r| r.name.ends_with(&format!(".worker_{n}.downstream_cx_active")));
    [0, 1].map(|n| of(n).map_or(0, |row| row.value))
}

/// Connections of which each shard has some; each has asked once.
fn on_both(server: &Server) -> Vec<TcpStream> {
    let by = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    while held(server).contains(&0) {
        assert!(Instant::now() < by, "one shard has all: {:?}", held(server));
        let mut one = server.connect();
        assert_eq!(ask(&mut one, "/"), "hi");
        all.push(one);
    }
    all
}

fn is_lost(server: &mut Server) -> usize {
    let by = Instant::now() + PATIENCE;
    loop {
        match server.inputs.try_recv() {
            Ok(machine::Input::ShardEnded(number)) => return number,
            _ => assert!(Instant::now() < by, "no shard has ended"),
        }
        std::thread::yield_now();
    }
}

/// A letter is obeyed by half.
fn a_shard_leaves(driver: &str, reuse_port: bool) {
    let trap = Trap::at("letter");
    let Some(mut server) = two_shards(driver, reuse_port, trap) else { return };
    let what = format!("{driver}, {reuse_port}");
    let mut old = on_both(&server);
    let before = held(&server);
    trap.arm();
    assert!(server.shards[0].letters.send_control(Letter::StopListening { inbound_only: true }).is_ok());
    server.until("server.selvedge.shards_lost", 1);
    // Its own connections are served on, and the rest come to the other.
    for one in &mut old {
        assert_eq!(ask(one, "/"), "hi", "{what}");
    }
    let mut more: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for one in &mut more {
        assert_eq!(ask(one, "/"), "hi", "{what}");
    }
    let now = held(&server);
    assert!(now[0] <= before[0] && now[1] == before[1] + 20, "{what}: {before:?}, then {now:?}");
    drop((old, more));
    assert_eq!(is_lost(&mut server), 0, "{what}");
    assert_eq!(server.stat("server.selvedge.panics"), 1, "{what}");
    assert!(exchange(&server, ASK_UP).contains("clean"), "{what}");
    at_rest(&server, &what);
    server.end();
}

/// The driver itself fails: nothing can be saved of this shard.
fn a_shard_falls(driver: &str, reuse_port: bool) {
    let trap = Trap::at("turn");
    let Some(mut server) = two_shards(driver, reuse_port, trap) else { return };
    let what = format!("{driver}, {reuse_port}, turn");
    let old = on_both(&server);
    trap.arm();
    assert!(old.iter().all(|mut one| one.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n").is_ok()));
    let lost = is_lost(&mut server);
    let left = held(&server);
    assert_eq!(left[lost], 0, "{what}: {left:?}");
    let mut closed = 0;
    for mut one in old {
        let _refused = one.write_all(b"\r\n");
        let mut some = [0; 4096];
        match one.read(&mut some) {
            Ok(0) => closed += 1,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => closed += 1,
            Ok(_) => {}
            Err(error) => panic!("{what}: {error}"),
        }
    }
    assert!(closed > 0, "{what}");
    let mut more: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for one in &mut more {
        assert_eq!(ask(one, "/"), "hi", "{what}");
    }
    assert_eq!(server.stat("server.selvedge.shards_lost"), 1, "{what}");
    drop(more);
    assert!(exchange(&server, ASK_UP).contains("clean"), "{what}");
    at_rest(&server, &what);
    server.end();
}

//! The binary: run to its end, or started and asked.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const SELVEDGE: &str = env!("CARGO_BIN_EXE_selvedge");

/// A folder of its own, removed at the end.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("process-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&dir).expect("a folder");
        Dir(dir)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.0.join(name), content).expect("a file");
        self.path(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the binary to its end with `input` on its stdin.
pub fn run(args: &[&str], input: &[u8]) -> Ended {
    run_by(Command::new(SELVEDGE), args, input)
}

/// The same, as somebody who may do little; where this is done by root, with `setpriv`. `None`: there is no such
/// program, which has been said.
pub fn run_as_nobody(args: &[&str]) -> Option<Ended> {
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let root = fs::metadata("/proc/self").expect("procfs").uid() == 0;
    if !root {
        return Some(run(args, b""));
    }
    let mut can = Command::new("setpriv");
    if !can.args(nobody).arg("true").status().is_ok_and(|end| end.success()) {
        eprintln!("SKIPPED: root may do everything, and setpriv is not there to become nobody");
        assert!(std::env::var_os("SELVEDGE_REQUIRE_PEERS").is_none(), "setpriv is missing");
        return None;
    }
    let mut command = Command::new("setpriv");
    command.args(nobody).arg(SELVEDGE);
    Some(run_by(command, args, b""))
}

/// The drivers that this kernel offers. One that is missing is said, and fails where peers are required.
pub fn drivers() -> Vec<&'static str> {
    let args = ["--mode", "init_only", "--config-yaml", "{}", "--disable-hot-restart", "--driver"];
    let runs = |driver: &&str| {
        let ended = run(&[&args[..], &[*driver]].concat(), b"");
        if ended.code != Some(0) {
            eprintln!("SKIPPED on {driver}: {}", ended.stderr);
            assert!(std::env::var_os("SELVEDGE_REQUIRE_PEERS").is_none(), "driver {driver} is missing");
        }
        ended.code == Some(0)
    };
    ["epoll", "uring"].into_iter().filter(runs).collect()
}

fn run_by(mut command: Command, args: &[&str], input: &[u8]) -> Ended {
    let mut child = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let feeder = thread::spawn(move || stdin.write_all(&input).is_ok());
    let (mut stdout, mut stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let said = thread::spawn(move || text(&mut stdout));
    let told = text(&mut stderr);
    let code = wait(&mut child).code();
    drop(feeder.join());
    Ended { code, stdout: said.join().expect("text"), stderr: told }
}

fn text(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("a pipe");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for an end that is near.
pub fn wait(child: &mut Child) -> ExitStatus {
    let mut end = None;
    until("the end of the process", || {
        end = child.try_wait().expect("a child");
        end.is_some()
    });
    end.expect("just seen")
}

/// Looks again and again at what tells nobody when it changes.
pub fn until(what: &str, mut there: impl FnMut() -> bool) {
    let by = Instant::now() + PATIENCE;
    while !there() {
        assert!(Instant::now() < by, "{what} does not come");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A listener with one route that answers `hi` itself, and one to the cluster `up`.
pub fn listener(name: &str, address: &str, more: &str) -> String {
    format!(
        r#"
  - name: {name}
    address: {address}
    {more}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          drain_timeout: 0.1s
          delayed_close_timeout: 0.1s
          access_log:
          - name: stdout
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {{match: {{prefix: /up}}, route: {{cluster: up, timeout: 0s}}}}
              - {{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: hi}}}}}}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"#
    )
}

pub const ANY: &str = "{socket_address: {address: 127.0.0.1, port_value: 0}}";

/// A bootstrap with these listeners and a cluster `up` at `upstream`.
pub fn bootstrap(bootstrap: &str, listeners: &[String], upstream: SocketAddr) -> String {
    format!(
        r"admin: {{address: {ANY}}}
{bootstrap}
static_resources:
  listeners:{}
  clusters:
  - name: up
    load_assignment: {{cluster_name: up, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
",
        listeners.concat(),
        upstream.port()
    )
}

/// A port that nobody needs to listen on.
pub fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

/// An upstream that takes requests and never answers; what it took is told.
pub fn silent_upstream() -> (SocketAddr, Receiver<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let (tell, told) = channel();
    thread::spawn(move || {
        let mut held = Vec::new();
        for mut socket in listener.incoming().flatten() {
            let mut some = [0; 4096];
            if socket.read(&mut some).is_ok_and(|n| n > 0) && tell.send(()).is_err() {
                return;
            }
            held.push(socket);
        }
    });
    (address, told)
}

/// The binary at work; it ends with the test.
pub struct Proxy {
    pub child: Child,
    pub admin: String,
    pub dir: Dir,
}

impl Proxy {
    pub fn start(config: &str, args: &[&str]) -> Proxy {
        Proxy::start_by(Command::new(SELVEDGE), config, args)
    }

    /// Started by a shell that limits the descriptors.
    pub fn start_limited(descriptors: usize, config: &str, args: &[&str]) -> Proxy {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"")).arg(SELVEDGE);
        Proxy::start_by(shell, config, args)
    }

    pub fn start_by(mut command: Command, config: &str, args: &[&str]) -> Proxy {
        let dir = Dir::new();
        let config = dir.write("config.yaml", config);
        let output = |name: &str| fs::File::create(dir.path(name)).expect("a file");
        let child = command
            .args(["-c", &config, "--disable-hot-restart", "--admin-address-path", &dir.path("admin")])
            .args(args)
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .expect("it starts");
        let mut proxy = Proxy { child, admin: String::new(), dir };
        until("the admin address", || {
            let end = proxy.child.try_wait().expect("a child");
            assert!(end.is_none(), "it ended at start: {}", proxy.output("stderr"));
            proxy.admin = proxy.output("admin");
            proxy.admin.contains(':') && proxy.ask_admin("GET", "/ready").0 == 200
        });
        proxy
    }

    pub fn output(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path(name)).unwrap_or_default()
    }

    pub fn ask_admin(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.admin).expect("the admin server");
        ask(&mut stream, &format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"))
            .map(|a| (a.status, a.body))
            .unwrap_or_default()
    }

    pub fn listener(&self, name: &str) -> String {
        let (_, all) = self.ask_admin("GET", "/listeners");
        let found = all.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix("::"));
        found.unwrap_or_else(|| panic!("no listener {name} in {all:?}")).to_owned()
    }

    /// A connection to a listener.
    pub fn connect(&self, name: &str) -> TcpStream {
        let stream = TcpStream::connect(self.listener(name)).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }

    pub fn stat(&self, name: &str) -> u64 {
        self.find_stat(name).unwrap_or_else(|| panic!("no stat {name}"))
    }

    /// `None`: there is none, or not yet: the admin server answers before the shards have begun.
    pub fn find_stat(&self, name: &str) -> Option<u64> {
        let (_, all) = self.ask_admin("GET", "/stats");
        all.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")?.parse().ok())
    }

    pub fn signal(&self, name: &str) {
        send(name, self.child.id());
    }
}

pub fn send(signal: &str, pid: u32) {
    let done = Command::new("kill").args(["-s", signal, &pid.to_string()]).status().expect("kill");
    assert!(done.success());
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its own end writes what it has measured of itself.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("TERM");
            let by = Instant::now() + Duration::from_secs(3);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < by {
                thread::sleep(Duration::from_millis(2));
            }
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// One exchange; `None`: the connection ended instead.
pub fn ask<S: Read + Write>(stream: &mut S, request: &str) -> Option<Answer> {
    stream.write_all(request.as_bytes()).ok()?;
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = n.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    if length > 0 {
        reader.read_exact(&mut body).ok()?;
    } else if head.contains("transfer-encoding: chunked") {
        body = read_chunks(&mut reader)?;
    }
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
}

fn read_chunks(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2]; // the data and its line end
        reader.read_exact(&mut chunk).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

pub const GET: &str = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";

//! One running proxy, Envoy or Selvedge, and what the harness asks of it: where it listens, its stats, its log,
//! and the fence that tells when it has dealt with everything sent before.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::wire::{self, Awaited, Wire};

/// How the suite starts a proxy; the configuration is added.
#[derive(Debug, Clone)]
pub struct Contender {
    pub name: &'static str,
    pub binary: PathBuf,
    pub args: Vec<String>,
}

#[derive(Debug)]
pub struct Proxy {
    child: Child,
    admin: String,
    /// Where the listener `main` is.
    pub main: String,
    fence_address: String,
    fence: Option<Wire>,
    fences: usize,
    log: PathBuf,
    log_read: usize,
}

/// Counters and gauges by name.
pub type Stats = BTreeMap<String, i64>;

const START_MAX: Duration = Duration::from_secs(20);
/// Round trips that give a proxy the time to end what a message has begun: each is a turn of its event loop.
const FENCE_TURNS: usize = 4;

impl Contender {
    pub fn command(&self, config: &Path) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(&self.args).arg("-c").arg(config);
        command.args(["--concurrency", "1", "--disable-hot-restart"]);
        command.stdin(Stdio::null());
        command
    }
}

impl Proxy {
    pub fn start(contender: &Contender, dir: &Path, config: &Path) -> Result<Proxy, String> {
        let admin_path = dir.join("admin");
        let log_path = dir.join("proxy.log");
        let mut command = contender.command(config);
        command.args(["--file-flush-interval-msec", "5", "-l", "info"]);
        command.arg("--admin-address-path").arg(&admin_path).arg("--log-path").arg(&log_path);
        let output = fs::File::create(dir.join("output")).expect("a file");
        command.stdout(Stdio::null()).stderr(output);
        let child = command.spawn().map_err(|e| format!("{}: {e}", contender.binary.display()))?;
        let mut proxy = Proxy {
            child,
            admin: String::new(),
            main: String::new(),
            fence_address: String::new(),
            fence: None,
            fences: 0,
            log: dir.join("access.log"),
            log_read: 0,
        };
        let by = Instant::now() + START_MAX;
        while proxy.find_addresses(&admin_path).is_none() {
            let exit = proxy.child.try_wait().expect("a child");
            if exit.is_some() || Instant::now() > by {
                let said = fs::read_to_string(&log_path).unwrap_or_default()
                    + &fs::read_to_string(dir.join("output")).unwrap_or_default();
                let fate = exit.map_or("is not ready".to_owned(), |e| format!("ended with {e}"));
                return Err(format!("{} {fate}: {said}", contender.name));
            }
            pause();
        }
        Ok(proxy)
    }

    fn find_addresses(&mut self, admin_path: &Path) -> Option<()> {
        self.admin = fs::read_to_string(admin_path).ok().filter(|a| a.contains(':'))?.trim().to_owned();
        if !self.admin("GET", "/ready").ok()?.starts_with("200") {
            return None;
        }
        let listeners = self.admin("GET", "/listeners").ok()?;
        let find = |name: &str| {
            let line = listeners.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix("::"))?;
            Some(line.to_owned())
        };
        self.main = find("main")?;
        self.fence_address = find("fence")?;
        Some(())
    }

    /// Status and body.
    pub fn admin(&self, method: &str, path: &str) -> Result<String, String> {
        let (status, _, body) = self.admin_parts(method, path)?;
        Ok(format!("{status}\n{body}"))
    }

    /// Status, fields of the head as lines, body.
    pub fn admin_parts(&self, method: &str, path: &str) -> Result<(String, String, String), String> {
        let by = Instant::now() + wire::STEP_MAX;
        let stream = std::net::TcpStream::connect(&self.admin).map_err(|e| e.to_string())?;
        let mut wire = Wire::from(stream);
        let request = format!("{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        wire.send(request.as_bytes());
        let head = wire::read_head(&mut wire, by).map_err(|fate| format!("{} on {path}", fate.word()))?;
        let body = wire::read_body(&mut wire, &head, true, by)?;
        let head = String::from_utf8_lossy(&head).replace("\r\n", "\n");
        let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let fields: String =
            head.lines().skip(1).filter(|l| !l.is_empty()).map(|l| format!("{l}\n")).collect();
        Ok((status, fields, String::from_utf8_lossy(&body.bytes).into_owned()))
    }

    pub fn stats(&self) -> Stats {
        let text = self.admin("GET", "/stats").expect("stats");
        text.lines()
            .filter_map(|line| {
                let (name, value) = line.split_once(": ")?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect()
    }

    /// Waits until no connection is left of those that `part` counts; `close` ends what the peers hold meanwhile.
    pub fn wait_for_none(&self, part: &str, close: impl Fn()) -> Stats {
        let by = Instant::now() + wire::STEP_MAX;
        loop {
            close();
            let stats = self.stats();
            let counted = |name: &str| {
                name.ends_with(part) && (name.starts_with("http.main.") || name.starts_with("cluster."))
            };
            if stats.iter().all(|(name, value)| !counted(name) || *value == 0) || Instant::now() > by {
                return stats;
            }
            pause();
        }
    }

    /// Passes the fence listener some times: what the proxy had read before is dealt with after that.
    pub fn fence(&mut self) -> Result<(), String> {
        for _ in 0..FENCE_TURNS {
            self.fences += 1;
            let address = self.fence_address.clone();
            let wire = self.fence.get_or_insert_with(|| Wire::connect(&address));
            wire.send(format!("GET /.fence/{}. HTTP/1.1\r\nHost: fence\r\n\r\n", self.fences).as_bytes());
            if let Err(instead) = wire::read_message(wire, Awaited::Response) {
                self.fence = None;
                return Err(format!("the fence: {instead}"));
            }
        }
        Ok(())
    }

    /// The lines of the access log since the last call; the fence's own line ends them. `expected` lines are
    /// waited for if they come late.
    pub fn log_lines(&mut self, expected: usize) -> Vec<String> {
        if let Err(e) = self.fence() {
            return vec![e];
        }
        let last = format!("/.fence/{}.\n", self.fences);
        let by = Instant::now() + wire::STEP_MAX;
        loop {
            let text = fs::read(&self.log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text[self.log_read.min(text.len())..]).into_owned();
            let lines: Vec<String> =
                text.lines().filter(|l| !l.starts_with("/.fence/")).map(str::to_owned).collect();
            if (text.contains(&last) && lines.len() >= expected) || Instant::now() > by {
                self.log_read += text.len();
                return lines;
            }
            pause();
        }
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|exit| exit.is_none())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its own end writes what it has measured of itself.
        if !thread::panicking() && self.admin("POST", "/quitquitquit").is_ok() {
            let by = Instant::now() + wire::STEP_MAX;
            while self.is_alive() && Instant::now() < by {
                pause();
            }
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Between two looks at something that tells nobody when it changes: a file, a gauge.
fn pause() {
    thread::sleep(Duration::from_millis(2));
}

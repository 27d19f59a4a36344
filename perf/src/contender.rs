//! The contenders: how each is found, configured, started on its core and stopped.
//!
//! Equal work: statistics, an access log to a file, one route (or the scenario's), keep-alive to the upstream, one
//! worker, raised limits. The configurations are the templates of `perf/configs`; ports and paths are filled in here.
//! A contender that cannot run is reported aloud by the caller, never left out in silence.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::clock;
use crate::load::free_port;
use crate::proc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// No proxy: the generator talks to its own upstream.
    Direct,
    SelvedgeUring,
    SelvedgeEpoll,
    Envoy,
    Nginx,
    Haproxy,
    HaproxyNoLog,
    /// Relays bytes and does nothing else; see decision 0001.
    Glommio,
}

pub const ALL: [Contender; 8] = [
    Contender::Direct,
    Contender::SelvedgeUring,
    Contender::SelvedgeEpoll,
    Contender::Envoy,
    Contender::Nginx,
    Contender::Haproxy,
    Contender::HaproxyNoLog,
    Contender::Glommio,
];

impl Contender {
    pub fn name(self) -> &'static str {
        match self {
            Contender::Direct => "direct",
            Contender::SelvedgeUring => "selvedge-uring",
            Contender::SelvedgeEpoll => "selvedge-epoll",
            Contender::Envoy => "envoy",
            Contender::Nginx => "nginx",
            Contender::Haproxy => "haproxy",
            Contender::HaproxyNoLog => "haproxy-nolog",
            Contender::Glommio => "glommio",
        }
    }

    pub fn from_name(name: &str) -> Option<Contender> {
        ALL.into_iter().find(|c| c.name() == name)
    }
}

/// The programs that were found.
#[derive(Debug, Clone)]
pub struct Programs {
    pub selvedge: Option<PathBuf>,
    pub envoy: Option<PathBuf>,
    pub nginx: Option<PathBuf>,
    pub haproxy: Option<PathBuf>,
    pub glommio: Option<PathBuf>,
}

impl Programs {
    pub fn of(&self, who: Contender) -> Option<&Path> {
        match who {
            Contender::Direct => None,
            Contender::SelvedgeUring | Contender::SelvedgeEpoll => self.selvedge.as_deref(),
            Contender::Envoy => self.envoy.as_deref(),
            Contender::Nginx => self.nginx.as_deref(),
            Contender::Haproxy | Contender::HaproxyNoLog => self.haproxy.as_deref(),
            Contender::Glommio => self.glommio.as_deref(),
        }
    }
}

/// Looks along PATH and in the places of system programs.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The real Envoy: what `envoy` on the PATH is may be a script that starts it.
pub fn find_envoy() -> Option<PathBuf> {
    let script = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let asked = Command::new("python3").args(["-c", script]).stderr(Stdio::null()).output().ok();
    let wheel =
        asked.map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim())).filter(|p| p.is_file());
    wheel.or_else(|| find("envoy"))
}

/// What a program says of its version, in one line.
pub fn version(who: Contender, program: &Path) -> String {
    let flag = match who {
        Contender::Nginx | Contender::Haproxy | Contender::HaproxyNoLog => "-v",
        Contender::Glommio => return "0.9.0".to_owned(),
        _ => "--version",
    };
    let Ok(out) = Command::new(program).arg(flag).output() else { return "?".to_owned() };
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|l| !l.trim().is_empty()).unwrap_or("?").trim().to_owned()
}

/// A contender that runs.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    pub pids: Vec<u32>,
    pub at: SocketAddrV4,
    dir: PathBuf,
}

/// What the configuration needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Wiring<'a> {
    pub upstream: SocketAddrV4,
    /// Prefix routes `/r00000/` ... ; 0: one route for everything.
    pub routes: usize,
    pub dir: &'a Path,
}

/// The path that hits route `index`.
pub fn route_path(index: usize) -> String {
    format!("/r{index:05}/")
}

impl Running {
    /// Starts the contender on its core and waits until its port accepts.
    pub fn start(who: Contender, programs: &Programs, wiring: Wiring<'_>) -> Result<Running, String> {
        if who == Contender::Direct {
            let dir = wiring.dir.to_owned();
            return Ok(Running { child: None, pids: Vec::new(), at: wiring.upstream, dir });
        }
        let program = programs.of(who).ok_or("not installed")?;
        fs::create_dir_all(wiring.dir).map_err(|e| format!("{}: {e}", wiring.dir.display()))?;
        let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port().map_err(|e| e.to_string())?);
        Running::spawn(command(who, program, wiring, at)?, at, wiring.dir)
    }

    /// Starts Selvedge or Envoy with an example configuration, on ports of our own, and lets it settle.
    pub fn start_example(who: Contender, programs: &Programs, wiring: Wiring<'_>) -> Result<Running, String> {
        let program = programs.of(who).ok_or("not installed")?;
        fs::create_dir_all(wiring.dir).map_err(|e| format!("{}: {e}", wiring.dir.display()))?;
        let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port().map_err(|e| e.to_string())?);
        let (name, text) = example()?;
        let file = wiring.dir.join(name);
        fs::write(&file, on_our_ports(&text, at.port())?).map_err(|e| format!("{}: {e}", file.display()))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(file).args(flags(who));
        let running = Running::spawn(command, at, wiring.dir)?;
        clock::pause(Duration::from_secs(1));
        Ok(running)
    }

    fn spawn(command: Command, at: SocketAddrV4, dir: &Path) -> Result<Running, String> {
        let mut command = with_our_life(command);
        let open = |name: &str| File::create(dir.join(name)).map_err(|e| format!("{name}: {e}"));
        command.stdin(Stdio::null()).stdout(open("stdout")?).stderr(open("stderr")?);
        clock::pin(clock::PROXY_CORE).map_err(|e| format!("pinning: {e}"))?;
        let child = command.spawn();
        clock::pin(clock::LOAD_CORE).map_err(|e| format!("pinning: {e}"))?;
        let child = child.map_err(|e| format!("{}: {e}", command.get_program().display()))?;
        let mut running = Running { pids: vec![child.id()], child: Some(child), at, dir: dir.to_owned() };
        running.wait_until_open()?;
        running.pids = proc::tree(running.pids[0]);
        Ok(running)
    }

    fn wait_until_open(&mut self) -> Result<(), String> {
        let give_up = clock::now() + 60_000_000_000;
        while clock::now() < give_up {
            if std::net::TcpStream::connect(self.at).is_ok() {
                clock::pause(Duration::from_millis(150));
                return Ok(());
            }
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(format!("ended at start with {status}: {}", self.complaint()));
            }
            clock::pause(Duration::from_millis(10));
        }
        Err(format!("does not accept on {} after a minute: {}", self.at, self.complaint()))
    }

    /// The last lines of its standard error.
    fn complaint(&self) -> String {
        let text = fs::read_to_string(self.dir.join("stderr")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    /// Is it still there after the measurement?
    pub fn check(&mut self) -> Result<(), String> {
        if let Some(child) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
        {
            return Err(format!("ended with {status}: {}", self.complaint()));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            let give_up = clock::now() + 2_000_000_000;
            while clock::now() < give_up && matches!(child.try_wait(), Ok(None)) {
                clock::pause(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Ends with this process, whatever ends it, where the system has a program for that.
fn with_our_life(command: Command) -> Command {
    let Some(setpriv) = find("setpriv") else { return command };
    let mut wrapped = Command::new(setpriv);
    wrapped.args(["--pdeathsig", "TERM"]).arg(command.get_program()).args(command.get_args());
    wrapped
}

/// The example that memory at start is measured with.
fn example() -> Result<(&'static str, String), String> {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples"));
    ["front_proxy.yaml", "demo.yaml"]
        .into_iter()
        .find_map(|name| Some((name, fs::read_to_string(dir.join(name)).ok()?)))
        .ok_or(format!("no example in {}", dir.display()))
}

/// The example with free ports in place of its own; `first` in the first listener.
fn on_our_ports(text: &str, first: u16) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let (mut in_listeners, mut given) = (false, false);
    for line in text.lines() {
        in_listeners |= line.trim_start().starts_with("listeners:");
        match line.split_once("port_value:") {
            Some((before, after)) => {
                let rest = after.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
                let port =
                    if in_listeners && !given { first } else { free_port().map_err(|e| e.to_string())? };
                given |= in_listeners;
                out.push_str(&format!("{before}port_value: {port}{rest}\n"));
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    if given { Ok(out) } else { Err("the example has no listener with a port".to_owned()) }
}

/// What Selvedge and Envoy are told besides their configuration.
fn flags(who: Contender) -> &'static [&'static str] {
    match who {
        Contender::SelvedgeUring => &["--concurrency", "1", "--driver", "uring", "-l", "warning"],
        Contender::SelvedgeEpoll => &["--concurrency", "1", "--driver", "epoll", "-l", "warning"],
        Contender::Envoy => &["--concurrency", "1", "--disable-hot-restart", "-l", "error"],
        _ => &[],
    }
}

fn command(who: Contender, program: &Path, wiring: Wiring<'_>, at: SocketAddrV4) -> Result<Command, String> {
    let mut command = Command::new(program);
    let config = |template: &str, name: &str| -> Result<PathBuf, String> {
        let text = fill(who, template, wiring, at);
        let file = wiring.dir.join(name);
        fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))?;
        Ok(file)
    };
    match who {
        Contender::Direct => {}
        Contender::SelvedgeUring | Contender::SelvedgeEpoll | Contender::Envoy => {
            command.arg("-c").arg(config(ENVOY, "proxy.yaml")?).args(flags(who));
        }
        Contender::Nginx => {
            command.arg("-p").arg(wiring.dir).arg("-c").arg(config(NGINX, "nginx.conf")?);
        }
        Contender::Haproxy | Contender::HaproxyNoLog => {
            let map: String = (0..wiring.routes).map(|i| format!("{} upstream\n", route_path(i))).collect();
            fs::write(wiring.dir.join("routes.map"), map).map_err(|e| format!("routes.map: {e}"))?;
            command.arg("-db").arg("-f").arg(config(HAPROXY, "haproxy.cfg")?);
        }
        Contender::Glommio => {
            command.arg(at.to_string()).arg(wiring.upstream.to_string());
        }
    }
    Ok(command)
}

const ENVOY: &str = include_str!("../configs/envoy.yaml");
const NGINX: &str = include_str!("../configs/nginx.conf");
const HAPROXY: &str = include_str!("../configs/haproxy.cfg");

fn fill(who: Contender, template: &str, wiring: Wiring<'_>, at: SocketAddrV4) -> String {
    let dir = fs::canonicalize(wiring.dir).unwrap_or_else(|_| wiring.dir.to_owned());
    let dir = dir.to_string_lossy();
    let log = match who {
        Contender::Haproxy => "log stdout format raw local0 info".to_owned(),
        Contender::HaproxyNoLog => String::new(),
        _ => format!("{dir}/access.log"),
    };
    template
        .replace("{{routes}}", &routes(who, wiring.routes))
        .replace("{{port}}", &at.port().to_string())
        .replace("{{upstream_port}}", &wiring.upstream.port().to_string())
        .replace("{{log}}", &log)
        .replace("{{dir}}", &dir)
}

/// The bootstrap that Selvedge and Envoy run, for measuring parts of it in this process.
pub fn bootstrap_text(routes: usize) -> String {
    let nowhere = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
    let wiring = Wiring { upstream: nowhere, routes, dir: Path::new("/tmp") };
    fill(Contender::SelvedgeUring, ENVOY, wiring, nowhere)
}

fn routes(who: Contender, count: usize) -> String {
    let one = |path: &str| match who {
        Contender::Nginx => format!("        location {path} {{ proxy_pass http://upstream; }}\n"),
        Contender::Haproxy | Contender::HaproxyNoLog => String::new(),
        _ => {
            format!("              - {{ match: {{ prefix: \"{path}\" }}, route: {{ cluster: upstream }} }}\n")
        }
    };
    match (who, count) {
        (Contender::Haproxy | Contender::HaproxyNoLog, 0) => "    default_backend upstream".to_owned(),
        (Contender::Haproxy | Contender::HaproxyNoLog, _) => {
            "    use_backend %[path,map_beg({{dir}}/routes.map,upstream)]".to_owned()
        }
        (_, 0) => one("/"),
        (_, n) => (0..n).map(|i| one(&route_path(i))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_leave_no_hole() {
        let dir = std::env::temp_dir();
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        for (who, template) in [
            (Contender::Envoy, ENVOY),
            (Contender::Nginx, NGINX),
            (Contender::Haproxy, HAPROXY),
            (Contender::HaproxyNoLog, HAPROXY),
        ] {
            for count in [0, 3] {
                let wiring = Wiring { upstream: any, routes: count, dir: &dir };
                let text = fill(who, template, wiring, any);
                assert!(!text.contains("{{"), "{}: {text}", who.name());
            }
        }
    }

    #[test]
    fn an_example_gets_our_ports() {
        let text = "admin:\n  port_value: 9901 }\nlisteners:\n - { port_value: 0 }, x\nclusters:\n - port_value: 80\n";
        let ours = on_our_ports(text, 1234).expect("a listener");
        assert!(ours.contains("port_value: 1234 }, x\n"), "{ours}");
        assert!(!ours.contains("9901") && !ours.contains(": 80\n"), "{ours}");
        assert!(on_our_ports("admin:\n port_value: 1\n", 2).is_err());
        let (_, example) = example().expect("an example");
        assert!(on_our_ports(&example, 1234).expect("a listener").contains("port_value: 1234"));
    }

    #[test]
    fn names_are_unique() {
        for who in ALL {
            assert_eq!(Contender::from_name(who.name()), Some(who));
        }
    }
}

//! Plays scenarios on a proxy and writes down what each peer sees.
//!
//! A scenario leaves nothing behind: its connections end and are counted out before the next one begins.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::bootstrap;
use crate::peers::Peers;
use crate::proxy::{Contender, Proxy, Stats};
use crate::scenario::{Act, Group, Scenario, Step, Verb};
use crate::text::{Normaliser, escape};
use crate::wire::{Awaited, Fate, Wire, read_message};

/// What a scenario has shown, by its name.
pub type Transcripts = BTreeMap<String, String>;

/// A place for files, made anew.
fn fresh_dir(contender: &Contender, group: &Group) -> PathBuf {
    let name = format!("parity-{}-{}-{}", std::process::id(), contender.name, group.name);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::remove_dir_all(&dir).ok();
    fs::create_dir_all(&dir).expect("a directory");
    for step in group.scenarios.iter().flat_map(|s| &s.steps) {
        if let Act::Pressure { monitor, .. } = &step.act {
            fs::write(dir.join(monitor), "0").expect("a file");
        }
    }
    dir
}

/// Plays a group. `log_lines` tells how many log lines a scenario is known to write.
pub fn play(contender: &Contender, group: &Group, log_lines: &dyn Fn(&str) -> usize) -> Transcripts {
    let dir = fresh_dir(contender, group);
    let peers = Peers::open();
    let mut stage = Stage { contender, group, peers, dir: dir.clone(), proxy: None, before: Stats::new() };
    let mut out = Transcripts::new();
    for scenario in &group.scenarios {
        out.insert(scenario.name.clone(), stage.play(scenario, log_lines(&scenario.name)));
    }
    drop(stage);
    fs::remove_dir_all(&dir).ok();
    out
}

struct Stage<'a> {
    contender: &'a Contender,
    group: &'a Group,
    peers: Peers,
    dir: PathBuf,
    proxy: Option<Proxy>,
    before: Stats,
}

impl Stage<'_> {
    fn play(&mut self, scenario: &Scenario, log_lines: usize) -> String {
        let served = scenario.steps.iter().any(|s| !matches!(s.act, Act::Validate { .. }));
        if served && !self.proxy.as_mut().is_some_and(Proxy::is_alive) {
            self.proxy = None;
            let config = self.dir.join("config.yaml");
            fs::write(&config, self.config(scenario)).expect("the configuration");
            match Proxy::start(self.contender, &self.dir, &config) {
                Ok(proxy) => {
                    self.before = proxy.stats();
                    self.proxy = Some(proxy);
                }
                Err(e) => return self.normaliser().apply(&format!("no proxy: {e}\n")),
            }
        }
        let mut play = Play { stage: self, wires: BTreeMap::new(), out: String::new() };
        for step in &scenario.steps {
            if let Err(instead) = play.step(scenario, step) {
                let _ = write!(play.out, "{instead}");
                let _ = writeln!(play.out, "(given up at line {})", step.line);
                break;
            }
        }
        if served {
            play.finish(log_lines);
        }
        let out = play.out;
        self.normaliser().apply(&out)
    }

    fn config(&self, scenario: &Scenario) -> String {
        let template = crate::home().join("bootstraps").join(format!("{}.yaml", self.group.bootstrap));
        let mut slots = self.group.slots.clone();
        slots.extend(scenario.slots.clone());
        let mut values: Vec<(String, String)> = self.peers.names();
        for (_, value) in &mut values {
            *value = value.rsplit(':').next().unwrap_or_default().to_owned();
        }
        values.push(("dir".to_owned(), self.dir.display().to_string()));
        bootstrap::fill(&template, &slots, &values)
    }

    fn normaliser(&self) -> Normaliser {
        let mut names: Vec<(String, String)> =
            self.peers.names().into_iter().map(|(name, address)| (address, format!("<{name}>"))).collect();
        if let Some(proxy) = &self.proxy {
            names.push((proxy.main.clone(), "<main>".to_owned()));
        }
        names.push((self.dir.display().to_string(), "<dir>".to_owned()));
        Normaliser::new(names)
    }
}

struct Play<'a, 'b> {
    stage: &'a mut Stage<'b>,
    wires: BTreeMap<String, Wire>,
    out: String,
}

impl Play<'_, '_> {
    fn step(&mut self, scenario: &Scenario, step: &Step) -> Result<(), String> {
        match &step.act {
            Act::Fence => self.proxy().fence(),
            Act::Admin { method, path, head } => {
                let (status, fields, body) = self.proxy().admin_parts(method, path)?;
                let fields = if *head { fields } else { String::new() };
                let answer = format!("{status}\n{fields}{body}");
                self.show(&format!("{method} {path}"), &answer);
                Ok(())
            }
            Act::Pressure { monitor, value } => self.press(monitor, value),
            Act::Validate { file, mentions } => {
                self.validate(scenario, file, mentions);
                Ok(())
            }
            Act::Ask { upstream, request, answer } => {
                self.wire("c")?.send(request);
                if upstream != "-" {
                    self.peer(upstream, &Verb::Serve(answer.clone()))?;
                }
                self.peer("c", &Verb::Response)
            }
            Act::Peer { peer, verb } => self.peer(peer, verb),
        }
    }

    /// Puts another file in the place of the one that the monitor reads, and waits until it was read.
    fn press(&mut self, monitor: &str, value: &str) -> Result<(), String> {
        let (new, file) = (self.stage.dir.join("pressure"), self.stage.dir.join(monitor));
        fs::write(&new, value).and_then(|()| fs::rename(&new, &file)).expect("a file");
        let pressure: f64 = value.parse().expect("a number");
        #[expect(clippy::cast_possible_truncation, reason = "a share")]
        let percent = (pressure * 100.0) as i64;
        let by = std::time::Instant::now() + crate::wire::STEP_MAX;
        let name = format!("overload.{monitor}.pressure");
        while self.proxy().stats().get(&name) != Some(&percent) {
            if std::time::Instant::now() > by {
                return Err(format!("{name} does not become {percent}\n"));
            }
        }
        Ok(())
    }

    fn proxy(&mut self) -> &mut Proxy {
        self.stage.proxy.as_mut().expect("a running proxy")
    }

    /// The peer's connection; made at its first use.
    fn wire(&mut self, peer: &str) -> Result<&mut Wire, String> {
        if !self.wires.contains_key(peer) {
            let wire = if peer.starts_with('c') {
                Wire::connect(&self.proxy().main)
            } else {
                let accepted = self.stage.peers.accept(&peer[..1]);
                accepted.ok_or_else(|| format!("{peer}: no connection\n"))?
            };
            self.wires.insert(peer.to_owned(), wire);
        }
        Ok(self.wires.get_mut(peer).expect("just made"))
    }

    fn peer(&mut self, peer: &str, verb: &Verb) -> Result<(), String> {
        let wire = self.wire(peer)?;
        let (title, awaited) = match verb {
            Verb::Connect => return Ok(()),
            Verb::Send(bytes) => {
                wire.send(bytes);
                return Ok(());
            }
            Verb::Shut => {
                wire.shutdown_write();
                return Ok(());
            }
            Verb::Close => {
                self.wires.remove(peer);
                return Ok(());
            }
            Verb::Reset => {
                self.wires.remove(peer).expect("a wire").reset();
                return Ok(());
            }
            Verb::Closed => {
                let fate = wire.drain();
                self.ended(peer, fate);
                self.wires.remove(peer);
                return Ok(());
            }
            Verb::Bytes(n) => return self.bytes(peer, *n),
            Verb::Request | Verb::Serve(_) => ("request", Awaited::Request),
            Verb::Response => ("response", Awaited::Response),
            Verb::Head => ("head", Awaited::Head),
        };
        let (shown, gone) = match read_message(wire, awaited) {
            Ok(shown) => (shown, false),
            Err(shown) => (shown, true),
        };
        if let (Verb::Serve(answer), false) = (verb, gone) {
            wire.send(answer);
        }
        self.show(&format!("{peer} {title}"), &shown);
        if gone { Err(String::new()) } else { Ok(()) }
    }

    fn bytes(&mut self, peer: &str, n: usize) -> Result<(), String> {
        let by = std::time::Instant::now() + crate::wire::STEP_MAX;
        let wire = self.wire(peer)?;
        while wire.held.len() < n {
            let fate = wire.fill(by);
            if fate != Fate::Data {
                let shown = crate::wire::instead(wire, fate, &format!("{n} bytes"));
                return Err(format!("{peer}: {shown}"));
            }
        }
        let bytes = wire.take(n);
        self.show(&format!("{peer} bytes"), &escape(&bytes));
        Ok(())
    }

    fn show(&mut self, title: &str, text: &str) {
        let _ = writeln!(self.out, "{title}");
        for line in text.lines() {
            let _ = writeln!(self.out, "  {line}");
        }
    }

    /// What stands unread, and how the connection stands.
    fn ended(&mut self, peer: &str, fate: Fate) {
        let wire = self.wires.get_mut(peer).expect("a wire");
        let held = std::mem::take(&mut wire.held);
        if !held.is_empty() {
            let _ = writeln!(self.out, "{peer} unread: {}", escape(&held));
        }
        let word = if fate == Fate::Silent { "open" } else { fate.word() };
        let _ = writeln!(self.out, "{peer} {word}");
    }

    /// Connection fates, log lines and stats; then everything is closed.
    fn finish(&mut self, log_lines: usize) {
        if let Err(e) = self.proxy().fence() {
            let _ = writeln!(self.out, "{e}");
        }
        let peers: Vec<String> = self.wires.keys().cloned().collect();
        for peer in &peers {
            let fate = self.wires.get_mut(peer).expect("a wire").poll();
            self.ended(peer, fate);
        }
        let mut unexpected = self.stage.peers.unexpected();
        for (name, wire) in &mut unexpected {
            wire.poll();
            if !wire.held.is_empty() {
                let _ =
                    writeln!(self.out, "{name} on a connection that no step takes: {}", escape(&wire.held));
            }
        }
        self.wires.retain(|name, _| !name.starts_with('c'));
        self.proxy().wait_for_none("downstream_cx_active", || {});
        self.wires.clear();
        drop(unexpected);
        // A connection that was being made for a request that is gone comes late.
        let Stage { proxy, peers, .. } = &*self.stage;
        let proxy = proxy.as_ref().expect("a running proxy");
        proxy.wait_for_none("upstream_cx_active", || drop(peers.unexpected()));
        for line in self.proxy().log_lines(log_lines) {
            let _ = writeln!(self.out, "log: {line}");
        }
        // Behind the log's fence: a scrape while a connection ends may see one of its counters and not the next.
        let after = self.proxy().stats();
        let main = self.proxy().main.replace(':', "_");
        for (scope, changes) in changes(&self.stage.before, &after, &main) {
            let _ = writeln!(self.out, "{scope}: {}", changes.join(" "));
        }
        self.stage.before = after;
    }

    /// Envoy's words are information; ours must contain `mentions`.
    fn validate(&mut self, scenario: &Scenario, file: &str, mentions: &str) {
        let config = self.stage.dir.join(file);
        fs::write(&config, self.stage.config(scenario)).expect("the configuration");
        let mut command = self.stage.contender.command(&config);
        command.args(["--mode", "validate", "-l", "error"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = command.output().expect("a process");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let code = output.status.code().map_or("a signal".to_owned(), |c| c.to_string());
        let _ = writeln!(self.out, "exit {code}");
        let refused = !output.status.success() && self.stage.contender.name != "envoy";
        if refused && !mentions.is_empty() && !said.contains(mentions) {
            let _ = writeln!(self.out, "does not mention {mentions}: {}", words(&said).join(" "));
        }
        for line in words(&said) {
            let _ = writeln!(self.out, "# {line}");
        }
    }
}

/// Stats that a scenario has changed, by scope. Left out is what differs from run to run.
fn changes(before: &Stats, after: &Stats, main: &str) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in after {
        let change = value - before.get(name).copied().unwrap_or(0);
        if change == 0 || name.ends_with("_bytes_total") || name.contains(".worker_") {
            continue;
        }
        let name = name.replace(main, "main");
        let scopes = ["http.main.", "listener.main.", "cluster.", "vhost.", "http1."];
        let Some(scope) = scopes.iter().find(|s| name.starts_with(**s)) else { continue };
        // A cluster's and a virtual host's name belongs to the scope.
        let at = match *scope {
            "cluster." | "vhost." => scope.len() + name[scope.len()..].find('.').map_or(0, |dot| dot + 1),
            _ => scope.len(),
        };
        let (scope, stat) = name.split_at(at);
        out.entry(scope.trim_end_matches('.').to_owned()).or_default().push(format!("{stat}{change:+}"));
    }
    out
}

/// The first and the last line that is said, without its stamp, a dump of the message and padding.
fn words(said: &str) -> Vec<String> {
    let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
    let mut ends: Vec<&str> = lines.first().into_iter().chain(lines.last()).copied().collect();
    ends.dedup();
    let plain = |line: &str| {
        let line = line.find("error initializing").map_or(line, |at| &line[at..]);
        let line = line.split("goo.gle/").next().unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect()
    };
    ends.into_iter().map(plain).collect()
}

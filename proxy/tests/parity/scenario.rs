//! Reads scenario files. One file is a group: scenarios that share a configuration and so a running proxy.
//! The format is told in `README.md`. Refuses what it does not know, so that a typo cannot pass as "nothing to do".

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::text::unescape;

/// Text that takes the place of a slot in a bootstrap template, by slot name.
pub type Slots = BTreeMap<String, String>;

#[derive(Debug)]
pub struct Group {
    pub name: String,
    pub path: PathBuf,
    /// A template of `bootstraps/`.
    pub bootstrap: String,
    pub slots: Slots,
    pub scenarios: Vec<Scenario>,
}

#[derive(Debug, Default)]
pub struct Scenario {
    pub name: String,
    /// Why Selvedge answers otherwise on purpose; what it answers stands in the `.selvedge` file.
    pub differs: Option<String>,
    /// Slots that this scenario alone sets; only for configurations that are validated.
    pub slots: Slots,
    pub steps: Vec<Step>,
}

#[derive(Debug)]
pub struct Step {
    pub line: usize,
    pub act: Act,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    /// One peer does something.
    Peer { peer: String, verb: Verb },
    /// A GET with headers as given; this upstream answers it, `-`: the proxy does.
    Ask { upstream: String, request: Vec<u8>, answer: Vec<u8> },
    /// The proxy has dealt with everything sent before.
    Fence,
    /// A request to the admin address; `head`: its head is shown too.
    Admin { method: String, path: String, head: bool },
    /// What a monitor `injected_resource` of that name reads from now on.
    Pressure { monitor: String, value: String },
    /// Exit code and message of `--mode validate`, which must contain the text.
    Validate { file: String, mentions: String },
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verb {
    Connect,
    Send(Vec<u8>),
    Request,
    Response,
    Head,
    Bytes(usize),
    /// Reads a request and answers it.
    Serve(Vec<u8>),
    Closed,
    Shut,
    Close,
    Reset,
}

/// All groups below `dir`, sorted; `filter` is a part of `group/scenario`.
pub fn load_all(dir: &Path, filter: Option<&str>) -> Vec<Group> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    paths.sort();
    let mut groups: Vec<Group> = paths.into_iter().map(load).collect();
    if let Some(filter) = filter {
        for group in &mut groups {
            let name = group.name.clone();
            group.scenarios.retain(|s| format!("{name}/{}", s.name).contains(filter));
        }
        groups.retain(|g| !g.scenarios.is_empty());
    }
    groups
}

fn load(path: PathBuf) -> Group {
    let text = fs::read_to_string(&path).expect("a scenario file");
    let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
    let bootstrap = "base".to_owned();
    let mut group = Group { name, path, bootstrap, slots: Slots::new(), scenarios: Vec::new() };
    let mut slot: Option<String> = None;
    for (number, line) in text.lines().enumerate() {
        let at = || format!("{}:{}: {line}", group.path.display(), number + 1);
        if let Some(content) = line.strip_prefix('|') {
            let slot = slot.as_ref().unwrap_or_else(|| panic!("no slot to fill: {}", at()));
            let slots = group.scenarios.last_mut().map_or(&mut group.slots, |s| &mut s.slots);
            let text = slots.get_mut(slot).expect("an opened slot");
            text.push_str(content.strip_prefix(' ').unwrap_or(content));
            text.push('\n');
            continue;
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim_start();
        match word {
            "bootstrap:" => group.bootstrap = rest.to_owned(),
            "==" => {
                assert!(group.scenarios.iter().all(|s| s.name != rest), "twice: {}", at());
                group.scenarios.push(Scenario { name: rest.to_owned(), ..Scenario::default() });
            }
            "slot" => {
                let slots = group.scenarios.last_mut().map_or(&mut group.slots, |s| &mut s.slots);
                slots.insert(rest.to_owned(), String::new());
                slot = Some(rest.to_owned());
            }
            _ => {
                let scenario =
                    group.scenarios.last_mut().unwrap_or_else(|| panic!("no scenario yet: {}", at()));
                if word == "differs:" {
                    scenario.differs = Some(rest.to_owned());
                    continue;
                }
                let act = parse_act(word, rest).unwrap_or_else(|| panic!("no such step: {}", at()));
                scenario.add(number + 1, act);
            }
        }
    }
    for scenario in &group.scenarios {
        assert!(!scenario.steps.is_empty(), "{}: {} has no steps", group.path.display(), scenario.name);
        let validates = scenario.steps.iter().all(|s| matches!(s.act, Act::Validate { .. }));
        assert!(validates || scenario.slots.is_empty(), "{}: one process, one configuration", scenario.name);
    }
    group
}

impl Scenario {
    /// Sends of one peer that follow each other are one write.
    fn add(&mut self, line: usize, act: Act) {
        if let (
            Some(Step { act: Act::Peer { peer: before, verb: Verb::Send(sent) }, .. }),
            Act::Peer { peer, verb: Verb::Send(more) },
        ) = (self.steps.last_mut(), &act)
            && before == peer
        {
            sent.extend_from_slice(more);
            return;
        }
        self.steps.push(Step { line, act });
    }
}

const ANSWER: &str = "HTTP/1.1 200 OK|Content-Length: 2||ok";

fn parse_act(word: &str, rest: &str) -> Option<Act> {
    Some(match word {
        "fence" => Act::Fence,
        "admin" | "admin-head" => {
            let (method, path) = rest.split_once(' ')?;
            Act::Admin { method: method.to_owned(), path: path.to_owned(), head: word == "admin-head" }
        }
        "pressure" => {
            let (monitor, value) = rest.split_once(' ')?;
            Act::Pressure { monitor: monitor.to_owned(), value: value.to_owned() }
        }
        "validate" => {
            let (file, mentions) = rest.split_once(' ').unwrap_or((rest, ""));
            Act::Validate { file: file.to_owned(), mentions: mentions.trim().to_owned() }
        }
        "ask" => {
            let (request, answer) = rest.split_once(" => ").unwrap_or((rest, ANSWER));
            let (upstream, request) = request.split_once(' ')?;
            let (path, headers) = request.trim_start().split_once('|').unwrap_or((request.trim_start(), ""));
            let has_host = headers.to_ascii_lowercase().split('|').any(|h| h.starts_with("host:"));
            let host = if has_host { "" } else { "Host: h|" };
            let separator = if headers.is_empty() { "" } else { "|" };
            let request = format!("GET {path} HTTP/1.1|{host}{headers}{separator}|");
            Act::Ask { upstream: upstream.to_owned(), request: unescape(&request), answer: unescape(answer) }
        }
        peer if is_peer(peer) => Act::Peer { peer: peer.to_owned(), verb: parse_verb(rest)? },
        _ => return None,
    })
}

/// `c`, `c2`... are clients; other letters are upstreams and the number counts the connections they accept.
fn is_peer(word: &str) -> bool {
    let mut chars = word.chars();
    chars.next().is_some_and(|c| c.is_ascii_lowercase()) && chars.all(|c| c.is_ascii_digit())
}

fn parse_verb(text: &str) -> Option<Verb> {
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some(match (verb, rest) {
        (">", bytes) => Verb::Send(unescape(bytes)),
        ("serve", "") => Verb::Serve(unescape(ANSWER)),
        ("serve", answer) => Verb::Serve(unescape(answer)),
        ("<", "request") => Verb::Request,
        ("<", "response") => Verb::Response,
        ("<", "head") => Verb::Head,
        ("<", "closed") => Verb::Closed,
        ("<", bytes) => Verb::Bytes(bytes.strip_prefix("bytes ")?.parse().ok()?),
        ("connect", "") => Verb::Connect,
        ("shut", "") => Verb::Shut,
        ("close", "") => Verb::Close,
        ("reset", "") => Verb::Reset,
        _ => return None,
    })
}

#[test]
fn steps_are_read() {
    assert_eq!(
        parse_act("a2", "> x|"),
        Some(Act::Peer { peer: "a2".to_owned(), verb: Verb::Send(b"x\r\n".to_vec()) })
    );
    assert_eq!(parse_act("c", "< bytes 3"), Some(Act::Peer { peer: "c".to_owned(), verb: Verb::Bytes(3) }));
    assert_eq!(parse_act("c", "< nothing"), None);
    assert_eq!(parse_act("clint", "shut"), None);
}

#[test]
fn questions_bring_their_host() {
    let request = |text| match parse_act("ask", text) {
        Some(Act::Ask { request, .. }) => String::from_utf8(request).expect("text"),
        other => panic!("{other:?}"),
    };
    assert_eq!(request("a /x"), "GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(request("- /x|host: y|a: b"), "GET /x HTTP/1.1\r\nhost: y\r\na: b\r\n\r\n");
}

//! Chains of test filters, driven by hand: every verdict, both ways. No socket, no clock.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::health_check::v3 as pb;
use envoy_types::pb::google::protobuf::{Any, BoolValue, BytesValue, StringValue};
use prost::Message;
use selvedge_runtime::{Chunk, Chunks, Instant, WallTime};

use super::chain::{Dir, Outcome, Run};
use super::{Cx, Entry, LocalEntry, Place, Target, compile_any, local};
use crate::config::rejection::At;
use crate::config::route::Lookup;
use crate::config::runtime_values::RuntimeValues;
use crate::config::snapshot::{ClusterNames, Node};
use crate::http::message::{Framing, RequestHead, ResponseHead};
use crate::limits;
use crate::observe::info::StreamInfo;
use crate::shard::ServerShared;
use crate::side_call::Answer;

fn any<F: super::Filter>(value: Vec<u8>) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", F::TYPE), value }
}

fn chain(configs: &[Any]) -> Box<[LocalEntry]> {
    chain_of(configs, &Arc::default())
}

fn chain_of(configs: &[Any], server: &Arc<ServerShared>) -> Box<[LocalEntry]> {
    let (names, runtime) = (ClusterNames::default(), RuntimeValues::default());
    let lookup = Lookup::new(&names, &runtime);
    let one = |config| Entry {
        name: Arc::from("test"),
        disabled: false,
        filter: compile_any(config, lookup, &At::resource()).expect("known").expect("good"),
    };
    let entries: Vec<Entry> = configs.iter().map(one).collect();
    local(
        &entries,
        &Place { registry: &Arc::default(), shard: 0, manager: "main", server, node: &Node::default() },
    )
}

fn drive(run: &mut Run<'_>, dir: Dir, request: &mut RequestHead) -> String {
    let mut info = StreamInfo::new(Instant(0), WallTime(0));
    let (mut framing, mut random, runtime) = (Framing::Chunked, || 0, RuntimeValues::default());
    let mut response = ResponseHead::new(200);
    let mut cx = Cx {
        now: Instant(0),
        random: &mut random,
        runtime: &runtime,
        request,
        response: Some(&mut response).filter(|_| dir == Dir::Response),
        framing: &mut framing,
        info: &mut info,
        target: Target::default(),
        body: Chunks::new(),
        ended: false,
        trailers: None,
        answer: None,
        reroute: false,
    };
    match run.drive(dir, &mut cx) {
        Outcome::Waits if run.take_call(dir).is_some() => "asks".to_owned(),
        Outcome::Passed if run.take_call(dir).is_some() => "passed, asks".to_owned(),
        Outcome::Waits => "waits".to_owned(),
        Outcome::Passed => "passed".to_owned(),
        Outcome::Reroute => "reroute".to_owned(),
        Outcome::Reply(reply) => format!("reply {}", reply.status),
        Outcome::TooLarge => "too large".to_owned(),
        Outcome::Reset(why) => format!("reset {why}"),
    }
}

#[track_caller]
fn check(dir: Dir, scripts: &[&str], words: &str, expect: &[&str]) {
    let script = |s: &&str| any::<super::Probe>(BytesValue { value: s.as_bytes().to_vec() }.encode_to_vec());
    let entries = chain(&scripts.iter().map(script).collect::<Vec<_>>());
    assert_eq!(feed(&entries, dir, b"/", words), expect, "{dir:?} {scripts:?} {words}");
}

/// Feeds a message to a chain: `.` drives, `?` answers, `$` ends, `#` is more body than a filter may hold, other words
/// are pieces of the body.
fn feed(entries: &[LocalEntry], dir: Dir, path: &[u8], words: &str) -> Vec<String> {
    let mut run = Run::new(entries, None, None);
    let mut request = RequestHead::new(b"POST", b"h", path);
    let mut seen = Vec::new();
    for word in words.split(' ') {
        match word {
            "." => {}
            "?" => run.answer(dir, Answer::Slept),
            "$" => run.end(dir, None),
            "#" => run.push(dir, Chunk::copy_from(&vec![b'#'; limits::FILTER_HOLD_BYTES])),
            data => run.push(dir, Chunk::copy_from(data.as_bytes())),
        }
        let mut step = drive(&mut run, dir, &mut request);
        let (out, end) = run.take_out(dir);
        for chunk in out.iter() {
            step.push_str(&format!(" {}", String::from_utf8_lossy(chunk)));
        }
        if end.is_some() {
            step.push_str(" $");
        }
        seen.push(step);
    }
    seen
}

#[test]
fn every_verdict_both_ways() {
    for (dir, way) in [(Dir::Request, "request"), (Dir::Response, "response")] {
        let status = if dir == Dir::Request { "reply 403" } else { "reply 502" };
        let said = |text: &str| text.split(' ').map(|w| format!("{way}_{w}")).collect::<Vec<_>>().join(" ");
        let check = |scripts: &[&str], feed: &str, expect: &[&str]| {
            let scripts: Vec<String> = scripts.iter().map(|s| said(s)).collect();
            let scripts: Vec<&str> = scripts.iter().map(String::as_str).collect();
            check(dir, &scripts, feed, expect);
        };
        check(&["head=continue"], ". ab $", &["passed", "passed ab", "passed $"]);
        check(&["head=reply"], ".", &[status]);
        check(&["head=reset"], ".", &["reset probe"]);
        check(&["head=call"], ". ab ? $", &["asks", "waits", "passed ab", "passed $"]);
        check(&["wants=chunks chunk=pass"], ". ab $", &["passed", "passed ab", "passed $"]);
        check(&["wants=chunks chunk=hold"], ". ab cd $", &["passed", "passed", "passed", "passed ab cd $"]);
        check(&["wants=chunks chunk=reply"], ". ab", &["passed", status]);
        check(&["wants=chunks chunk=reset"], ". ab", &["passed", "reset probe"]);
        check(
            &["wants=chunks chunk=call"],
            ". ab cd ? ? $",
            &["passed", "passed, asks", "passed", "passed, asks ab", "passed cd", "passed $"],
        );
        check(&["trailers=reply"], ". ab $", &["passed", "passed ab", status]);
        check(&["trailers=reset"], ". $", &["passed", "reset probe"]);
        check(&["trailers=call"], ". ab $ ?", &["passed", "passed ab", "passed, asks", "passed $"]);
        check(&["wants=full"], ". ab cd $", &["waits", "waits", "waits", "passed ab cd $"]);
        check(&["wants=full"], ". abcde", &["waits", "too large"]);
        check(&["wants=upto"], ". ab cdef $", &["waits", "waits", "passed ab cdef", "passed $"]);
        check(&["wants=upto head=reply"], ". $", &["waits", status]);
        check(&["wants=full", "wants=full"], ". ab $", &["waits", "waits", "passed ab $"]);
        check(&["wants=chunks chunk=hold", "wants=full"], ". ab $", &["waits", "waits", "passed ab $"]);
    }
}

#[test]
fn a_response_meets_the_filters_in_reverse_order() {
    check(Dir::Request, &["request_head=reset", "request_head=reply"], ".", &["reset probe"]);
    check(Dir::Response, &["response_head=reset", "response_head=reply"], ".", &["reply 502"]);
}

#[test]
#[expect(deprecated, reason = "the shortest of the matchers")]
fn health_checks_are_answered_at_their_end() {
    for (through, failing, path, words, expect) in [
        (false, false, "/healthz", ". ab $", vec!["waits", "waits", "reply 200"]),
        (false, false, "/healthz", ". # #", vec!["waits", "reply 200"]),
        (false, true, "/healthz", ". $", vec!["waits", "reply 503"]),
        (false, true, "/", ". ab $", vec!["passed", "passed ab", "passed $"]),
        (true, false, "/healthz", ". ab $", vec!["passed", "passed ab", "passed $"]),
        (true, true, "/healthz", ". $", vec!["waits", "reply 503"]),
    ] {
        let server = Arc::new(ServerShared::default());
        server.failing_health.store(failing, Relaxed);
        let config = pb::HealthCheck {
            pass_through_mode: Some(BoolValue { value: through }),
            headers: vec![HeaderMatcher {
                name: ":path".to_owned(),
                header_match_specifier: Some(HeaderMatchSpecifier::PrefixMatch("/healthz".to_owned())),
                ..HeaderMatcher::default()
            }],
            ..pb::HealthCheck::default()
        };
        let entries = chain_of(&[any::<super::HealthCheck>(config.encode_to_vec())], &server);
        let mut seen = feed(&entries, Dir::Request, path.as_bytes(), words);
        seen.truncate(expect.len());
        assert_eq!(seen, expect, "{through} {failing} {path} {words}");
    }
}

#[test]
fn nothing_is_looked_at_once_a_way_is_open() {
    let entries = chain(&[any::<super::Stamp>(StringValue { value: "PUT".into() }.encode_to_vec())]);
    let mut run = Run::new(&entries, None, None);
    let mut request = RequestHead::new(b"POST", b"h", b"/");
    assert_eq!(drive(&mut run, Dir::Request, &mut request), "passed");
    run.take_out(Dir::Request);
    assert!(run.is_open(Dir::Request));
    assert_eq!(request.fields.get_named(b"x-stamp"), Some(&b"seen"[..]));
}

#[test]
fn the_documented_example_is_this_one() {
    let page = include_str!("../../../docs/FILTERS.md");
    assert!(page.contains(include_str!("stamp.rs")), "docs/FILTERS.md shows filters/stamp.rs as it is");
    let entries = chain(&[any::<super::Stamp>(StringValue { value: "PUT".into() }.encode_to_vec())]);
    let mut run = Run::new(&entries, None, None);
    let mut request = RequestHead::new(b"PUT", b"h", b"/");
    assert_eq!(drive(&mut run, Dir::Request, &mut request), "reply 405");
}

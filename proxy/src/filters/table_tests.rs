//! Each filter alone: `check(config, request, answers, expect)`. No socket, no clock.
//!
//! A request is `METHOD path name:value... +piece-of-body... $`; `answers` are what calls are answered with, `slept`,
//! `failed` or `status name:value... +body`. What came of it is told in the same words.

use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use selvedge_runtime::{Chunk, Chunks, Instant, WallTime};

use super::chain::{Dir, Outcome, Run};
use super::{Buffer, Call, Cx, Entry, ExtAuthz, Fault, Filter, Place, Target, compile_any, local};
use crate::config::rejection::At;
use crate::config::route::Lookup;
use crate::config::runtime_values::{RuntimeValue, RuntimeValues};
use crate::config::snapshot::{ClusterNames, Node};
use crate::http::message::{Fields, Framing, HeaderId, RequestHead, ResponseHead};
use crate::observe::info::StreamInfo;
use crate::side_call::{Answer, Failure, SideResponse};

struct Bench {
    pool: DescriptorPool,
    runtime: RuntimeValues,
}

impl Bench {
    fn new() -> Bench {
        Bench { pool: crate::config::bootstrap::descriptors(), runtime: RuntimeValues::default() }
    }

    fn with(mut self, key: &str, value: f64) -> Bench {
        let values = [(key.to_owned(), RuntimeValue::Number(value))].into();
        self.runtime.layers.push((key.to_owned(), values));
        self
    }

    fn compile<F: Filter>(&self, config: &str) -> Result<Entry, String> {
        let desc = self.pool.get_message_by_name(F::TYPE).expect("a message");
        let mut json = serde_json::Deserializer::from_str(config);
        let message = DynamicMessage::deserialize(desc, &mut json).expect("the message's JSON");
        let any =
            Any { type_url: format!("type.googleapis.com/{}", F::TYPE), value: message.encode_to_vec() };
        let names = ClusterNames::default();
        let lookup = Lookup::new(&names, &self.runtime);
        let filter = compile_any(&any, lookup, &At::resource()).expect("a known filter");
        Ok(Entry { name: Arc::from("test"), disabled: false, filter: filter.map_err(|f| f.path)? })
    }

    #[track_caller]
    fn check<F: Filter>(&self, config: &str, request: &str, answers: &[&str], expect: &str) {
        let entry = self.compile::<F>(config).expect("a good configuration");
        let entries = local(
            &[entry],
            &Place {
                registry: &Arc::default(),
                shard: 0,
                manager: "main",
                server: &Arc::default(),
                node: &Node::default(),
            },
        );
        let mut play = Play {
            run: Run::new(&entries, None, None),
            runtime: &self.runtime,
            info: StreamInfo::new(Instant(0), WallTime(0)),
            framing: Framing::None,
            said: Vec::new(),
        };
        let mut words = request.split(' ');
        let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
        let mut head = RequestHead::new(method.as_bytes(), b"h", path.as_bytes());
        let words: Vec<&str> = words.collect();
        words.iter().for_each(|w| field(&mut head.fields, w));
        if words.contains(&"$") {
            let length = head.fields.get(HeaderId::ContentLength).is_none();
            play.framing = if length { Framing::Chunked } else { Framing::Length(0) };
        } else {
            play.run.end(Dir::Request, None);
        }
        let mut answers = answers.iter();
        let mut over = play.drive(&mut head);
        for word in words {
            match word.strip_prefix('+') {
                Some(piece) => play.run.push(Dir::Request, Chunk::copy_from(piece.as_bytes())),
                None if word == "$" => play.run.end(Dir::Request, None),
                None => continue,
            }
            over = over || play.drive(&mut head);
        }
        while let (false, Some(answer)) = (over, answers.next()) {
            play.run.answer(Dir::Request, read(answer));
            over = play.drive(&mut head);
        }
        assert_eq!(play.said.join(" "), expect, "{config} {request}");
    }
}

struct Play<'c> {
    run: Run<'c>,
    runtime: &'c RuntimeValues,
    info: StreamInfo,
    framing: Framing,
    said: Vec<String>,
}

impl Play<'_> {
    /// Whether the filter is through with the request.
    fn drive(&mut self, request: &mut RequestHead) -> bool {
        let mut cx = Cx {
            now: Instant(0),
            random: &mut || 0,
            runtime: self.runtime,
            request,
            response: None,
            framing: &mut self.framing,
            info: &mut self.info,
            target: Target { found: true, cluster: None },
            body: Chunks::new(),
            ended: false,
            trailers: None,
            answer: None,
            reroute: false,
        };
        let outcome = self.run.drive(Dir::Request, &mut cx);
        match self.run.take_call(Dir::Request) {
            Some(Call::Sleep(time)) => self.said.push(format!("sleeps {}", time.as_millis())),
            Some(Call::Ask(asked)) => {
                let path = String::from_utf8_lossy(asked.head.path()).into_owned();
                self.said.push(format!("asks {} {path}{}", asked.cluster, shown(&asked.head.fields)));
                self.said.extend(asked.body.iter().filter(|c| !c.is_empty()).map(|c| text(c)));
            }
            None => {}
        }
        match outcome {
            Outcome::Waits => return false,
            Outcome::Passed => {
                self.said.push(format!("passed{}", shown(&request.fields)));
                let (out, _) = self.run.take_out(Dir::Request);
                self.said.extend(out.iter().map(|c| text(c)));
            }
            Outcome::Reroute => self.said.push("reroute".to_owned()),
            Outcome::TooLarge => self.said.push("too large".to_owned()),
            Outcome::Reset(why) => self.said.push(format!("reset {why}")),
            Outcome::Reply(reply) => {
                let mut flags = Vec::new();
                reply.flags.write(false, &mut flags);
                let flags = String::from_utf8_lossy(&flags).into_owned();
                self.said.push(format!("reply {} {} {flags}", reply.status, reply.details));
                for (name, value) in &reply.headers {
                    self.said.push(format!("{}:{}", text(name).trim_start_matches('+'), &text(value)[1..]));
                }
                self.said.extend(Some(text(&reply.body)).filter(|t| t.len() > 1));
            }
        }
        true
    }
}

fn text(bytes: &[u8]) -> String {
    format!("+{}", String::from_utf8_lossy(bytes))
}

fn shown(fields: &Fields) -> String {
    let one = |(_, name, value): (HeaderId, &[u8], &[u8])| {
        format!(" {}:{}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
    };
    fields.iter().map(one).collect()
}

fn field(fields: &mut Fields, word: &str) {
    if let (false, Some((name, value))) = (word.starts_with('+'), word.split_once(':')) {
        fields.append_named(name.as_bytes(), value.as_bytes());
    }
}

fn read(answer: &str) -> Answer {
    let mut words = answer.split(' ');
    let status = match words.next() {
        Some("slept") => return Answer::Slept,
        Some("failed") => return Answer::Failed(Failure::Timeout),
        status => status.and_then(|s| s.parse().ok()).expect("a status"),
    };
    let mut head = ResponseHead::new(status);
    let mut body = Chunk::from_static(b"");
    for word in words {
        field(&mut head.fields, word);
        if let Some(piece) = word.strip_prefix('+') {
            body = Chunk::copy_from(piece.as_bytes());
        }
    }
    Answer::Response(Box::new(SideResponse { head, body }))
}

#[test]
fn buffer() {
    let bench = Bench::new();
    let check = |config: &str, request: &str, expect: &str| {
        bench.check::<Buffer>(config, request, &[], expect);
    };
    let four = r#"{"maxRequestBytes": 4}"#;
    check(four, "GET /", "passed");
    check(four, "POST / +ab +cd $", "passed content-length:4 +ab +cd");
    check(four, "POST / $", "passed content-length:0");
    check(four, "POST / content-length:2 +ab $", "passed content-length:2 +ab");
    check(four, "POST / +abcde $", "too large");
    check(four, "POST / +abcd +e $", "too large");
    for (config, path) in [("{}", "max_request_bytes"), (r#"{"maxRequestBytes": 0}"#, "max_request_bytes")] {
        assert_eq!(bench.compile::<Buffer>(config).expect_err("a bad one"), path, "{config}");
    }
}

#[test]
fn fault() {
    let bench = Bench::new();
    let check = |config: &str, request: &str, answers: &[&str], expect: &str| {
        bench.check::<Fault>(config, request, answers, expect);
    };
    let abort =
        r#"{"abort": {"httpStatus": 418, "percentage": {"numerator": 100}}, "headers": [{"name": "x-f"}]}"#;
    check(abort, "GET /", &[], "passed");
    check(abort, "GET / x-f:1", &[], "reply 418 fault_filter_abort FI +fault filter abort");
    let none = r#"{"abort": {"httpStatus": 418}}"#;
    check(none, "GET /", &[], "passed");
    let both = r#"{"delay": {"fixedDelay": "0.020s", "percentage": {"numerator": 100}},
        "abort": {"grpcStatus": 5, "responseBody": "no", "percentage": {"numerator": 100}}}"#;
    check(both, "GET /", &["slept"], "sleeps 20 reply 200 fault_filter_abort FI +no");
    let header = r#"{"delay": {"headerDelay": {}, "percentage": {"numerator": 100}},
        "abort": {"headerAbort": {}, "percentage": {"numerator": 100}}}"#;
    check(header, "GET /", &[], "passed");
    check(
        header,
        "GET / x-envoy-fault-delay-request:7",
        &["slept"],
        "sleeps 7 passed x-envoy-fault-delay-request:7",
    );
    check(header, "GET / x-envoy-fault-abort-request:7", &[], "passed x-envoy-fault-abort-request:7");
    check(
        header,
        "GET / x-envoy-fault-abort-request:599",
        &[],
        "reply 599 fault_filter_abort FI +fault filter abort",
    );
    let full = r#"{"maxActiveFaults": 0, "abort": {"httpStatus": 418, "percentage": {"numerator": 100}}}"#;
    check(full, "GET /", &[], "passed");
    let tuned = Bench::new().with("fault.http.abort.abort_percent", 100.0);
    tuned.check::<Fault>(none, "GET /", &[], "reply 418 fault_filter_abort FI +fault filter abort");
    let tuned = tuned.with("fault.http.abort.http_status", 700.0);
    tuned.check::<Fault>(none, "GET /", &[], "passed");
    for (config, path) in [
        (r#"{"abort": {"httpStatus": 199}}"#, "abort.http_status"),
        (r#"{"abort": {}}"#, "abort"),
        (r#"{"delay": {"fixedDelay": "0s"}}"#, "delay.fixed_delay"),
        (r#"{"headers": [{"name": "x"}, {}]}"#, "headers[1].name"),
        (
            r#"{"abort": {"httpStatus": 503, "percentage": {"denominator": 7}}}"#,
            "abort.percentage.denominator",
        ),
    ] {
        assert_eq!(bench.compile::<Fault>(config).expect_err("a bad one"), path, "{config}");
    }
}

#[test]
fn ext_authz() {
    let bench = Bench::new();
    let service = |inner: &str, outer: &str| {
        format!(
            r#"{{"httpService": {{"serverUri": {{"uri": "x", "cluster": "z", "timeout": "1s"}}{inner}}}{outer}}}"#
        )
    };
    let check = |config: &str, request: &str, answers: &[&str], expect: &str| {
        bench.check::<ExtAuthz>(config, request, answers, expect);
    };
    let plain = service(r#", "pathPrefix": "/check""#, "");
    let asks = "asks z /check/x content-length:0";
    check(&plain, "GET /x a:b", &["200 x:y"], &format!("{asks} passed a:b"));
    check(&plain, "GET /x", &["401 x:y +no"], &format!("{asks} reply 401 ext_authz_denied UAEX x:y +no"));
    check(&plain, "GET /x", &["500 x:y +no"], &format!("{asks} reply 403 ext_authz_error UAEX"));
    check(&plain, "GET /x", &["failed"], &format!("{asks} reply 403 ext_authz_error UAEX"));
    check(&plain, "GET /x authorization:t", &[], "asks z /check/x content-length:0 authorization:t");
    let open = service("", r#", "failureModeAllow": true, "failureModeAllowHeaderAdd": true"#);
    let passed = "passed x-envoy-auth-failure-mode-allowed:true";
    check(&open, "GET /", &["failed"], &format!("asks z / content-length:0 {passed}"));
    let body = service("", r#", "withRequestBody": {"maxRequestBytes": 2, "allowPartialMessage": true}"#);
    let part = "asks z / content-length:2 x-envoy-auth-partial-body:true +ab";
    check(&body, "POST / +abc $", &["200"], &format!("{part} passed +abc"));
    let off =
        service("", r#", "filterEnabled": {"defaultValue": {}}, "denyAtDisable": {"defaultValue": true}"#);
    check(&off, "GET /", &[], "reply 403 ext_authz_error UAEX");
    let upstream = r#", "authorizationResponse": {"allowedUpstreamHeaders": {"patterns": [{"exact": "a"}]}}"#;
    let upstream = service(upstream, "");
    check(&upstream, "GET / a:1", &["200 a:2 b:3"], "asks z / content-length:0 passed a:2");
    for (config, path) in [
        ("{}".to_owned(), "http_service"),
        (service(r#", "pathPrefix": "x""#, ""), "http_service.path_prefix"),
        (service("", r#", "withRequestBody": {}"#), "with_request_body.max_request_bytes"),
        (service("", r#", "statusOnError": {"code": 100}"#), "status_on_error.code"),
        (service("", r#", "allowedHeaders": {}"#), "allowed_headers.patterns"),
        (service("", r#", "denyAtDisable": {}"#), "deny_at_disable.default_value"),
    ] {
        assert_eq!(bench.compile::<ExtAuthz>(&config).expect_err("a bad one"), path, "{config}");
    }
}

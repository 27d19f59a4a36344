//! The admin server of the binary: what each endpoint answers, as bytes on the socket.
#![allow(clippy::disallowed_types, reason = "a test's deadlines go by the wall clock")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

const CONFIG: &str = r#"
node: {id: nid, cluster: ncl, metadata: {a: b, c: 3}}
layered_runtime: {layers: [{name: base, static_layer: {x.y: 7}}]}
static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ing
          route_config:
            name: local_route
            virtual_hosts:
            - {name: vh, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: up, timeout: 1.5s}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: up
    connect_timeout: 1s
    circuit_breakers: {thresholds: [{max_connections: 7}]}
    load_assignment:
      cluster_name: up
      endpoints:
      - locality: {region: r, zone: z}
        lb_endpoints:
        - {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9}}, hostname: hn}, load_balancing_weight: 3}
  - name: other
    load_assignment:
      cluster_name: other
      endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /x.sock}}}, health_status: UNHEALTHY}]}]
"#;

/// The binary at work; it ends with the test.
struct Selvedge {
    child: Child,
    /// Held: a log without a reader would stop the process.
    log: BufReader<ChildStderr>,
    address: String,
}

impl Selvedge {
    fn start(admin: &str) -> Selvedge {
        Selvedge::with(admin, &[])
    }

    fn with(admin: &str, args: &[&str]) -> Selvedge {
        let mut child = Command::new(env!("CARGO_BIN_EXE_selvedge"))
            .args(["--concurrency", "1", "--disable-hot-restart", "--config-yaml"])
            .arg(format!("admin: {{address: {admin}}}{CONFIG}"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        // From here on its end is the end of the test.
        let mut started = Selvedge { child, log, address: String::new() };
        let mut all = String::new();
        while !all.contains("starting workers") {
            let from = all.len();
            assert!(started.log.read_line(&mut all).expect("a log") > 0, "it ended before it served:\n{all}");
            if let Some((_, found)) = all[from..].split_once("admin address: ") {
                found.trim().clone_into(&mut started.address);
            }
        }
        started
    }

    fn tcp() -> Selvedge {
        Selvedge::start("{socket_address: {address: 127.0.0.1, port_value: 0}}")
    }

    /// What comes on a connection of its own until it ends.
    fn raw(&self, request: &str) -> String {
        let mut answer = Vec::new();
        if self.address.starts_with('/') {
            exchange(UnixStream::connect(&self.address).expect("connects"), request, &mut answer);
        } else {
            let stream = TcpStream::connect(&self.address).expect("connects");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
            exchange(stream, request, &mut answer);
        }
        String::from_utf8(answer).expect("text")
    }

    /// One request on a connection of its own: status, head, body.
    fn ask(&self, method: &str, target: &str) -> (u16, String, String) {
        let text = self.raw(&format!("{method} {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"));
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head[9..12].parse().expect("a status");
        (status, head.to_owned(), dechunked(body))
    }

    fn body(&self, target: &str) -> String {
        self.ask("GET", target).2
    }
}

fn exchange(mut stream: impl Read + Write, request: &str, answer: &mut Vec<u8>) {
    stream.write_all(request.as_bytes()).expect("written");
    stream.read_to_end(answer).expect("answered");
}

fn dechunked(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        out.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    out
}

impl Drop for Selvedge {
    fn drop(&mut self) {
        // It may have ended by itself; and its own end writes what it has measured of itself.
        let pid = self.child.id().to_string();
        let asked = matches!(self.child.try_wait(), Ok(None))
            && Command::new("kill").args(["-s", "TERM", &pid]).status().is_ok_and(|s| s.success());
        if !asked {
            let _ended = self.child.kill();
        }
        let _reaped = self.child.wait();
        let _rest = self.log.read_to_string(&mut String::new());
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_endpoint_answers_as_envoy_does() {
    let s = Selvedge::tcp();
    let text = "text/plain; charset=UTF-8";
    let json = "application/json";
    // Method, target, status, content type, how the body begins.
    for (method, target, status, content_type, body) in [
        ("GET", "/ready", 200, text, "LIVE\n"),
        ("GET", "//ready?x=y", 200, text, "LIVE\n"),
        ("GET", "/%72eady", 200, text, "LIVE\n"),
        ("POST", "/ready", 200, text, "LIVE\n"),
        ("GET", "/a/%2e%2e/ready", 200, text, "LIVE\n"),
        ("GET", "/%2fready", 404, text, "invalid path. admin commands are:\n"),
        ("GET", "/ready/", 404, text, "invalid path. admin commands are:\n  /: "),
        ("GET", "/help", 200, text, "admin commands are:\n  /: "),
        ("GET", "/", 200, "text/html; charset=UTF-8", "<!DOCTYPE html>"),
        ("GET", "/healthcheck/fail", 405, text, "Method GET not allowed, POST required."),
        ("PUT", "/quitquitquit", 405, text, "Method PUT not allowed, POST required."),
        ("GET", "/hot_restart_version", 200, text, "disabled"),
        ("GET", "/certs", 200, json, "{\n \"certificates\": []\n}\n"),
        ("GET", "/init_dump", 200, json, "{}\n"),
        ("GET", "/memory", 200, json, "{\n \"allocated\": \""),
        ("GET", "/memory/tcmalloc", 501, text, "The current build"),
        ("POST", "/cpuprofiler?enable=z", 400, text, "?enable=<y|n>\n"),
        ("POST", "/heapprofiler?enable=y", 501, text, "The current build does not support heap profiler"),
        (
            "POST",
            "/runtime_modify",
            400,
            text,
            "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n",
        ),
        ("POST", "/runtime_modify?a=b", 503, text, "No admin layer specified"),
        ("POST", "/reopen_logs", 200, text, "OK\n"),
        ("POST", "/reset_counters", 200, text, "OK\n"),
        ("POST", "/drain_listeners?graceful&skip_exit", 200, text, "OK\n"),
        ("GET", "/clusters?filter=(", 400, text, "Invalid re2 regex"),
        ("GET", "/clusters?filter=ot", 200, text, "other::observability_name::other\n"),
        ("GET", "/listeners", 200, text, "front::127.0.0.1:"),
        (
            "GET",
            "/listeners?format=json",
            200,
            json,
            "{\n \"listener_statuses\": [\n  {\n   \"name\": \"front\",",
        ),
        ("GET", "/stats?filter=server.live", 200, text, "server.live: 1\n"),
        (
            "GET",
            "//stats?filter=^server.live$&format=json",
            200,
            json,
            r#"{"stats":[{"name":"server.live","value":1}]}"#,
        ),
        ("GET", "/stats?filter=(", 400, text, "Invalid re2 regex: "),
        (
            "GET",
            "/stats?format=foo",
            400,
            text,
            "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n",
        ),
        ("GET", "/stats?type=foo", 400, text, "invalid &type= param"),
        ("GET", "/stats?type=TextReadouts", 200, text, ""),
        ("GET", "/stats?hidden=bad", 400, text, "usage: /stats?hidden=(include|only|exclude)\n\n"),
        (
            "GET",
            "/stats/prometheus?filter=^server.live$",
            200,
            text,
            "# TYPE envoy_server_live gauge\nenvoy_server_live{} 1\n",
        ),
        (
            "GET",
            "/stats?format=prometheus&histogram_buckets=detailed",
            400,
            text,
            "unsupported prometheus histogram bucket mode",
        ),
        (
            "GET",
            "/stats/prometheus?filter=^http\\.ing\\.downstream_cx_active$",
            200,
            text,
            "# TYPE envoy_http_downstream_cx_active gauge\nenvoy_http_downstream_cx_active{envoy_http_conn_manager_prefix=\"ing\"} 0\n",
        ),
        ("GET", "/config_dump?resource=nope", 404, "text/plain", "nope not found in config dump"),
        (
            "GET",
            "/config_dump?resource=bootstrap",
            400,
            "text/plain",
            "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field",
        ),
        (
            "GET",
            "/config_dump?mask=nope",
            400,
            "text/plain",
            "FieldMask nope could not be successfully applied to any configs.",
        ),
        ("GET", "/config_dump?resource=dynamic_active_clusters", 200, json, "{}\n"),
        (
            "GET",
            "/config_dump?mask=static_route_configs",
            200,
            json,
            "{\n \"configs\": [\n  {\n   \"@type\": \"type.googleapis.com/envoy.admin.v3.RoutesConfigDump\",",
        ),
    ] {
        let (got, head, full) = s.ask(method, target);
        assert_eq!(got, status, "{method} {target}: {head}\n{full}");
        assert!(full.starts_with(body) && (!body.is_empty() || full.is_empty()), "{method} {target}: {full}");
        let lines: Vec<&str> = head.lines().skip(1).collect();
        let names: Vec<&str> = lines.iter().filter_map(|l| l.split(": ").next()).collect();
        assert_eq!(lines[0], format!("content-type: {content_type}"), "{method} {target}");
        assert_eq!(
            names[1..],
            ["cache-control", "x-content-type-options", "date", "server", "connection", "transfer-encoding"],
            "{method} {target}"
        );
    }
}

/// What the connection answers by itself, and what it refuses.
#[test]
fn requests_that_reach_no_endpoint() {
    let s = Selvedge::tcp();
    let long = "a".repeat(70_000);
    let length = format!("POST /healthcheck/fail HTTP/1.1\r\nhost: a\r\ncontent-length: 70000\r\n\r\n{long}");
    for (request, status, end) in [
        (
            "GET /ready HTTP/1.1\r\nconnection: close\r\n\r\n",
            "400 Bad Request",
            "connection: close\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "GET /ready HTTP/1.0\r\nhost: a\r\n\r\n",
            "426 Upgrade Required",
            "connection: close\r\n\r\nUpgrade Required",
        ),
        (
            "GET http://a/ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            "404 Not Found",
            "server: envoy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        ),
        (&length, "413 Payload Too Large", "\r\n\r\nPayload Too Large"),
        (
            "HEAD /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            "200 OK",
            "content-length: 5\r\n\r\n",
        ),
    ] {
        let answer = s.raw(request);
        let shown = &request[..request.len().min(60)];
        assert_eq!(answer.get(9..9 + status.len()), Some(status), "{shown}: {answer}");
        assert!(answer.ends_with(end), "{shown}: {answer}");
    }
    assert_eq!(s.ask("GET", "/ready").0, 200, "a request that was refused changed something");
}

/// A page of another site makes its readers' browsers send what it likes.
#[test]
fn pages_of_other_sites_change_nothing() {
    let s = Selvedge::tcp();
    let ask = |path: &str, field: &str| {
        let request = format!("POST {path} HTTP/1.1\r\nhost: a:1\r\n{field}\r\nconnection: close\r\n\r\n");
        s.raw(&request)[9..12].to_owned()
    };
    for foreign in
        ["origin: http://evil.test", "origin: null", "origin: http://a", "sec-fetch-site: cross-site"]
    {
        assert_eq!(ask("/healthcheck/fail", foreign), "403", "{foreign}");
        assert_eq!(ask("/stats", foreign), "200", "what changes nothing is answered: {foreign}");
    }
    assert_eq!(s.ask("GET", "/ready").0, 200);
    for own in ["origin: http://a:1", "origin: https://A:1", "sec-fetch-site: same-origin", "x: y"] {
        assert_eq!(ask("/healthcheck/ok", own), "200", "{own}");
    }
}

/// What comes from a request or a configuration is text on a page, whatever it says.
#[test]
fn pages_escape_what_they_show() {
    let s = Selvedge::with(
        "{socket_address: {address: 127.0.0.1, port_value: 0}}",
        &["--service-node", "<b>'\"&"],
    );
    let (_, head, page) =
        s.ask("GET", "/stats?format=html&usedonly&type=Gauges&filter=%5Eserver.state%7C%3Cb%3E%27");
    assert!(head.contains("content-type: text/html; charset=UTF-8"), "{head}");
    for part in [
        "name='usedonly' id='param-0-usedonly' form='stats' checked>",
        "name='filter' id='param-0-filter' form='stats' value='^server.state|&lt;b&gt;&#39;'>",
        "<option value='Gauges' selected>",
        "<pre>\nserver.state: 0\n</pre>",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert!(!page.contains("http-equiv"));
    assert!(s.body("/stats?format=active-html").contains("<meta http-equiv='refresh' content='5'>"));
    let index = s.body("/");
    assert!(index.contains("node <code>&lt;b&gt;&#39;&quot;&amp;</code>"), "{index}");
    assert!(index.contains("<form action='quitquitquit' method='post' id='quitquitquit' "), "{index}");
    for page in [page, index] {
        assert!(page.ends_with("</html>\n") && !page.contains("<b>'"), "{page}");
    }
}

/// What agents wait for at start: names of stats that are zero, but were written.
#[test]
fn used_stats_may_be_zero() {
    let s = Selvedge::tcp();
    let used = s.body(
        r"/stats?usedonly&filter=^(server\.(state|static_unknown_fields)|listener_manager\.workers_started)$",
    );
    assert_eq!(
        used,
        "listener_manager.workers_started: 1\nserver.state: 0\nserver.static_unknown_fields: 0\n"
    );
    assert_eq!(s.body("/stats?usedonly&filter=^http.ing"), "", "nothing was asked of it");
    assert_eq!(s.ask("POST", "/reset_counters").2, "OK\n");
    let total = s.body("/stats?usedonly&filter=^listener_manager.listener_added$");
    assert_eq!(total, "listener_manager.listener_added: 0\n");
}

#[test]
fn dumps_have_envoys_shape() {
    let s = Selvedge::tcp();
    let dump: serde_json::Value = serde_json::from_str(&s.body("/config_dump?include_eds")).expect("JSON");
    let kinds: Vec<&str> = dump["configs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|c| c["@type"].as_str().expect("a type").rsplit('.').next().expect("a name"))
        .collect();
    assert_eq!(
        kinds,
        [
            "BootstrapConfigDump",
            "ClustersConfigDump",
            "EndpointsConfigDump",
            "ListenersConfigDump",
            "ScopedRoutesConfigDump",
            "RoutesConfigDump",
            "SecretsConfigDump"
        ]
    );
    let bootstrap = &dump["configs"][0]["bootstrap"];
    assert_eq!(bootstrap["node"]["id"], "nid");
    assert_eq!(bootstrap["node"]["user_agent_build_version"]["version"]["minor_number"], 40);
    let cluster = &dump["configs"][1]["static_clusters"][0]["cluster"];
    assert_eq!((&cluster["name"], &cluster["connect_timeout"]), (&"up".into(), &"1s".into()));
    let route = &dump["configs"][5]["static_route_configs"][0]["route_config"];
    assert_eq!(route["virtual_hosts"][0]["routes"][0]["route"]["timeout"], "1.500s");
    assert_eq!(
        s.body("/config_dump?resource=static_clusters&mask=cluster.name&name_regex=up"),
        r#"{
 "configs": [
  {
   "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
   "cluster": {
    "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "name": "up"
   }
  }
 ]
}
"#
    );
    let clusters: serde_json::Value = serde_json::from_str(&s.body("/clusters?format=json")).expect("JSON");
    let up = &clusters["cluster_statuses"][0];
    assert_eq!(up["circuit_breakers"]["thresholds"][0]["max_connections"], 7);
    assert_eq!(up["host_statuses"][0]["address"]["socket_address"]["port_value"], 9);
    let other = &clusters["cluster_statuses"][1]["host_statuses"][0];
    assert_eq!(other["health_status"]["eds_health_status"], "UNHEALTHY");
    let lines = s.body("/clusters");
    for line in [
        "up::default_priority::max_connections::7\n",
        "up::127.0.0.1:9::weight::3\nup::127.0.0.1:9::region::r\nup::127.0.0.1:9::zone::z\nup::127.0.0.1:9::sub_zone::\n",
        "other::/x.sock::health_flags::/failed_eds_health\n",
    ] {
        assert!(lines.contains(line), "{line} in {lines}");
    }
    let info: serde_json::Value = serde_json::from_str(&s.body("/server_info")).expect("JSON");
    assert_eq!((&info["state"], &info["command_line_options"]["concurrency"]), (&"LIVE".into(), &1.into()));
    assert_eq!(info["node"]["metadata"], serde_json::json!({"a": "b", "c": 3}));
    let runtime: serde_json::Value = serde_json::from_str(&s.body("/runtime")).expect("JSON");
    assert_eq!(runtime["entries"]["x.y"]["final_value"], "7");
}

#[test]
fn levels_of_the_log_change() {
    let s = Selvedge::tcp();
    let shown = |target: &str| s.ask("POST", target);
    let (status, _, body) = shown("/logging?paths=upstream:off,main:error");
    assert!(status == 200 && body.starts_with("active loggers:\n  a2a: info\n"), "{body}");
    assert!(body.contains("  upstream: off\n") && body.contains("  main: error\n"), "{body}");
    assert!(shown("/logging?upstream=trace").2.contains("  upstream: trace\n"));
    for (target, fault) in [
        ("/logging?level=warn", "unknown logger level"),
        ("/logging?paths=upstream:info,nope:debug", "unknown logger name"),
        ("/logging?paths=upstream", "empty logger name or empty logger level"),
        ("/logging?paths=upstream:", "empty logger name or empty logger level"),
        ("/logging?level=info&upstream=debug", "invalid number of parameters"),
        ("/logging?group=x", "group parameter requires fine-grain logging to be enabled"),
    ] {
        let (status, _, body) = shown(target);
        assert_eq!(status, 400, "{target}");
        assert!(body.starts_with(&format!("error: {fault}\n\nusage: /logging?")), "{target}: {body}");
        assert!(body.contains("  upstream: trace\n"), "a fault changed a level: {body}");
    }
    assert!(shown("/logging?level=critical").2.contains("  main: critical\n"));
    for empty in ["level=&paths=", "upstream=&x=", "paths=,"] {
        let (status, _, body) = shown(&format!("/logging?{empty}"));
        assert!(status == 200 && body.contains("  main: critical\n"), "{empty}: {body}");
    }
    assert!(shown("/logging?paths=upstream:error,,main:info,").2.contains("  main: info\n"));
}

#[test]
fn health_fails_and_recovers_and_the_end_is_clean() {
    let mut s = Selvedge::tcp();
    assert_eq!(s.ask("POST", "/healthcheck/fail").2, "OK\n");
    let (status, _, body) = s.ask("GET", "/ready");
    assert_eq!((status, &*body), (503, "DRAINING\n"));
    assert_eq!(s.body("/stats?filter=^server.(live|state)$"), "server.live: 0\nserver.state: 1\n");
    assert_eq!(s.ask("POST", "/healthcheck/ok").2, "OK\n");
    assert_eq!(s.ask("GET", "/ready").0, 200);
    assert_eq!(s.ask("POST", "/quitquitquit").2, "OK\n");
    assert!(s.child.wait().expect("it ends").success());
}

/// A listener that has stopped is not counted a second time.
#[test]
fn listeners_stop_once() {
    let s = Selvedge::tcp();
    let stat = "/stats?filter=^listener_manager.listener_stopped$";
    for (query, stopped) in [("?inboundonly", 0), ("", 1)].into_iter().chain([("", 1); 10]) {
        assert_eq!(s.ask("POST", &format!("/drain_listeners{query}")).2, "OK\n");
        let expected = format!("listener_manager.listener_stopped: {stopped}\n");
        let by = Instant::now() + Duration::from_secs(20);
        while s.body(stat) != expected {
            assert!(Instant::now() < by, "{query}: {}", s.body(stat));
        }
    }
}

#[test]
fn slow_clients_hold_up_nobody() {
    let s = Selvedge::tcp();
    let mut slow = Vec::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(&s.address).expect("connects");
        stream.write_all(b"GET /re").expect("written");
        slow.push(stream);
    }
    // These ask for more than sockets hold and read nothing.
    let greedy = "GET /stats/prometheus HTTP/1.1\r\nhost: a\r\n\r\n".repeat(40);
    for _ in 0..10 {
        let mut stream = TcpStream::connect(&s.address).expect("connects");
        stream.write_all(greedy.as_bytes()).expect("written");
        slow.push(stream);
    }
    assert_eq!(s.body("/ready"), "LIVE\n");
    assert!(s.body("/stats/prometheus").contains("envoy_listener_admin_downstream_cx_active{} 71\n"));
}

/// More of them than there are places: who comes next gets one of those that stand still.
#[test]
fn a_crowd_that_stands_still_makes_room() {
    let s = Selvedge::tcp();
    let mut crowd = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(&s.address).expect("connects");
        let asked: &[u8] = if n % 2 == 0 { b"GET /re" } else { b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n" };
        stream.write_all(asked).expect("written");
        crowd.push(stream);
    }
    assert_eq!(s.body("/ready"), "LIVE\n");
}

#[test]
fn requests_are_logged() {
    let path: PathBuf = std::env::temp_dir().join(format!("selvedge-admin-{}.log", std::process::id()));
    let format = "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %BYTES_SENT% %CONNECTION_ID%";
    let log = format!(
        "[{{name: envoy.access_loggers.file, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers\
         .file.v3.FileAccessLog, path: '{}', log_format: {{text_format_source: {{inline_string: \"{format}\\n\"}}}}}}}}]",
        path.display()
    );
    let mut s = Selvedge::start(&format!(
        "{{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, access_log: {log}"
    ));
    assert_eq!(s.body("//ready?x"), "LIVE\n");
    assert_eq!(s.ask("GET", "/quitquitquit").0, 405);
    assert_eq!(s.ask("POST", "/quitquitquit").0, 200);
    assert!(s.child.wait().expect("it ends").success());
    assert_eq!(
        fs::read_to_string(&path).expect("a log"),
        "GET /ready?x HTTP/1.1 200 admin_filter_response 5 0\n\
         GET /quitquitquit HTTP/1.1 405 admin_filter_response 38 1\n\
         POST /quitquitquit HTTP/1.1 200 admin_filter_response 3 2\n"
    );
    fs::remove_file(&path).expect("removed");
}

#[test]
fn a_disabled_extension_is_refused() {
    let validated = Command::new(env!("CARGO_BIN_EXE_selvedge"))
        .args(["--mode", "validate", "--config-yaml", CONFIG, "--disable-extensions"])
        .arg("envoy.filters.http/envoy.filters.http.router")
        .output()
        .expect("it runs");
    assert_eq!(validated.status.code(), Some(1));
    let log = String::from_utf8_lossy(&validated.stderr);
    let reason = "Didn't find a registered implementation for 'envoy.filters.http.router' with type URL: \
        'envoy.extensions.filters.http.router.v3.Router'";
    assert!(log.contains(reason), "{log}");
}

#[test]
fn a_unix_socket_has_its_mode() {
    let path: PathBuf = std::env::temp_dir().join(format!("selvedge-admin-{}.sock", std::process::id()));
    let s = Selvedge::start(&format!("{{pipe: {{path: \"{}\", mode: 384}}}}", path.display()));
    assert_eq!(s.address, path.display().to_string());
    let mode = fs::metadata(&path).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(s.body("/ready"), "LIVE\n");
    drop(s);
    fs::remove_file(&path).expect("removed");
}

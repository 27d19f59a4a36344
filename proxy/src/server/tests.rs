//! Shards as the server starts them, in one process with their peers: what happens to them that no peer can cause.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::{Any, BytesValue};
use prost::Message;
use tokio::sync::mpsc;

mod panics;

use super::*;
use crate::config::endpoint::{ConfiguredHealth, Endpoint, EndpointTarget, LocalityEndpoints};
use crate::epoch::Epochs;
use crate::shard::{Changes, Letter};
use crate::upstream::endpoint::EndpointShared;

const PATIENCE: Duration = Duration::from_secs(20);

/// Started shards; they end with the test.
struct Server {
    core: Arc<control::Core>,
    changes: Vec<Arc<Changes>>,
    shards: Vec<shards::Shard>,
    /// Of the control thread.
    inputs: mpsc::UnboundedReceiver<machine::Input>,
}

impl Server {
    /// `None`: this driver cannot run here, which has been said.
    fn start(
        driver: &str,
        shards: &str,
        yaml: &str,
        probe: Option<&str>,
        planted: Planted,
    ) -> Option<Server> {
        let args = ["selvedge", "--config-yaml", yaml, "--concurrency", shards, "--driver", driver];
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let (mut plan, mut compiled) =
            load(crate::args::parse(&args, None).expect("good flags")).expect("a good bootstrap");
        plan.planted = planted;
        if let Some(script) = probe {
            let mut config = Bootstrap::decode(&*plan.bootstrap).expect("just encoded");
            plant(&mut config, script);
            compiled = Arc::new(snapshot::compile(&config, Node::default()).expect("compiles"));
        }
        let (core, bound) = prepare(plan, compiled, Instant::now()).expect("bound");
        let changes: Vec<Arc<Changes>> = (0..core.process.shards).map(|_| Arc::default()).collect();
        let (ended, inputs) = mpsc::unbounded_channel();
        match shards::start(&core, bound, |n| Arc::clone(&changes[n]), &ended) {
            Ok(shards) => Some(Server { core, changes, shards, inputs }),
            Err(error) => {
                eprintln!("SKIPPED on {driver}: {error}");
                assert!(std::env::var_os("SELVEDGE_REQUIRE_PEERS").is_none(), "a driver is missing: {error}");
                None
            }
        }
    }

    fn connect(&self) -> TcpStream {
        let SocketAddress::Ip(address) = self.core.listeners[0].1[0] else { panic!("an IP address") };
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }

    fn stat(&self, name: &str) -> u64 {
        let rows = self.core.process.registry.rows(false);
        rows.iter().find(|r| r.name == name).unwrap_or_else(|| panic!("no stat {name}")).value
    }

    fn until(&self, name: &str, value: u64) {
        let by = Instant::now() + PATIENCE;
        while self.stat(name) != value {
            assert!(Instant::now() < by, "{name} is {} and does not become {value}", self.stat(name));
            std::thread::yield_now();
        }
    }

    /// As the control machine does when a cluster has other endpoints.
    fn tell(&self, cluster: usize) {
        for (shard, changes) in self.shards.iter().zip(&self.changes) {
            assert!(!changes.note(cluster) || shard.letters.send(Letter::Changes).is_ok(), "a full box");
        }
    }

    fn end(self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(control::end(self.shards));
        assert!(self.core.process.writer.flush(PATIENCE));
    }
}

/// Puts a test's filter before the others of the first listener.
fn plant(config: &mut Bootstrap, script: &str) {
    let listener = &mut config.static_resources.as_mut().expect("resources").listeners[0];
    let Some(ConfigType::TypedConfig(any)) = &mut listener.filter_chains[0].filters[0].config_type else {
        panic!("a connection manager")
    };
    let mut manager = hcm::HttpConnectionManager::decode(&*any.value).expect("a connection manager");
    let probe = Any {
        type_url: "type.googleapis.com/google.protobuf.BytesValue".to_owned(),
        value: BytesValue { value: script.as_bytes().to_vec() }.encode_to_vec(),
    };
    let config_type = Some(hcm::http_filter::ConfigType::TypedConfig(probe));
    manager
        .http_filters
        .insert(0, hcm::HttpFilter { name: "probe".to_owned(), config_type, ..Default::default() });
    any.value = manager.encode_to_vec();
}

fn yaml(upstream: SocketAddr, log: &str) -> String {
    format!(
        r#"
static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
              log_format: {{text_format_source: {{inline_string: "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}}}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {{match: {{prefix: /up}}, route: {{cluster: up}}}}
              - {{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: hi}}}}}}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: up
    load_assignment: {{cluster_name: up, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
"#,
        upstream.port()
    )
}

/// An upstream that answers every request of a connection with its own name.
fn upstream(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut some = [0; 4096];
                // A head comes in one piece here.
                while socket.read(&mut some).is_ok_and(|n| n > 0) {
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                    if socket.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// The body of an answer with a `content-length`; empty: the connection ended instead.
fn ask(stream: &mut TcpStream, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes()).expect("sent");
    let mut got = Vec::new();
    let mut some = [0; 4096];
    loop {
        let n = stream.read(&mut some).expect("an answer or an end");
        if n == 0 {
            assert!(got.is_empty(), "an end within an answer");
            return String::new();
        }
        got.extend_from_slice(&some[..n]);
        let text = String::from_utf8_lossy(&got);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).expect("a length");
        if body.len() == length.parse::<usize>().expect("a number") {
            return body.to_owned();
        }
    }
}

/// Ever so many changes, of which the last ones count: every shard has them in the end.
#[test]
fn no_change_of_endpoints_is_lost() {
    let (old, new) = (upstream("old"), upstream("new"));
    for driver in ["epoll", "uring"] {
        let Some(server) = Server::start(driver, "2", &yaml(old, "/dev/null"), None, Planted::default())
        else {
            return;
        };
        let locality = server.core.process.epoch().clusters[0].config.endpoints[0].clone();
        for _ in 0..20_000 {
            // Every list is another one, so that every change is one.
            server.core.process.epoch().clusters[0].set_endpoints([endpoint(old, &locality)].into());
            server.tell(0);
        }
        server.core.process.epoch().clusters[0].set_endpoints([endpoint(new, &locality)].into());
        server.tell(0);
        let by = Instant::now() + PATIENCE;
        let mut shards_on_new = 0;
        while shards_on_new < 20 {
            assert!(Instant::now() < by, "{driver}: a shard stays with the old endpoint");
            shards_on_new = if ask(&mut server.connect(), "/up") == "new" { shards_on_new + 1 } else { 0 };
        }
        server.end();
    }
}

/// The next request on a connection that is there already is served by the new epoch; then nobody holds the old one.
#[test]
fn a_new_epoch_serves_the_next_request() {
    let (old, new) = (upstream("old"), upstream("new"));
    for driver in ["epoll", "uring"] {
        let Some(server) = Server::start(driver, "2", &yaml(old, "/dev/null"), None, Planted::default())
        else {
            return;
        };
        let process = &server.core.process;
        let mut connections = [(); 8].map(|()| server.connect());
        for connection in &mut connections {
            assert_eq!((ask(connection, "/"), ask(connection, "/up")), ("hi".to_owned(), "old".to_owned()));
        }
        let yaml = yaml(new, "/dev/null").replace("inline_string: hi", "inline_string: ho");
        let source = Source { yaml, ..Source::default() };
        let loaded = bootstrap::load(&source).expect("a good bootstrap");
        let compiled = snapshot::compile(&loaded.bootstrap, Node::default()).expect("compiles");
        let mut epochs = Epochs::new(process.epoch(), process.shards, &process.registry);
        epochs.take(Arc::new(compiled)).expect("the same listeners");
        epochs.publish().expect("another one");
        process.set_epoch(Arc::clone(&epochs.current));
        for (shard, changes) in server.shards.iter().zip(&server.changes) {
            assert!(changes.note_epoch(process.epoch()) && shard.letters.send(Letter::Changes).is_ok());
        }
        let by = Instant::now() + PATIENCE;
        for connection in &mut connections {
            while ask(connection, "/up") != "new" {
                assert!(Instant::now() < by, "{driver}: a shard stays with the old epoch");
            }
            assert_eq!(ask(connection, "/"), "ho", "{driver}");
        }
        // Its connections are closed with it.
        server.until("cluster.up.upstream_cx_destroy_local", server.stat("cluster.up.upstream_cx_total") / 2);
        drop(connections);
        while !epochs.is_swept() {
            assert!(Instant::now() < by, "{driver}: {} epochs live", epochs.live());
            epochs.sweep();
        }
        server.end();
    }
}

fn endpoint(address: SocketAddr, locality: &LocalityEndpoints) -> Arc<EndpointShared> {
    let address = SocketAddress::Ip(address);
    let one = Endpoint {
        target: EndpointTarget::Address(address.clone()),
        hostname: Arc::from(""),
        weight: 1,
        health: ConfiguredHealth::Healthy,
        metadata: None,
    };
    Arc::new(EndpointShared::new(&one, address, locality))
}

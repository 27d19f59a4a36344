//! `selvedge demo`: the main job, shown.
//!
//! Starts two small upstream servers, a proxy (this same binary, with an ordinary Envoy bootstrap), sends real
//! requests through it and prints who answered, how, how fast, and what the access log says of it.
//! Not a load generator and not part of the data path: plain blocking sockets and threads.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a terminal program beside the proxy, not part of it"
)]

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

const BOOTSTRAP: &str = include_str!("../../examples/demo.yaml");
/// How long the proxy may take to start, and one answer or log line to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the demo; `once`: end after the requests. The answer is the exit code.
pub fn run(once: bool) -> i32 {
    match play(once) {
        Ok(()) => 0,
        // Whoever looked has seen enough: `demo | head`, or a signal.
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted) => 0,
        Err(error) => {
            eprintln!("demo: {error}");
            1
        }
    }
}

/// The requests of the demo: method, host, path, what it shows.
const REQUESTS: &[(&str, &str, &str, &str)] = &[
    ("GET", "shop.example", "/health", "the proxy answers by itself (direct_response)"),
    ("GET", "shop.example", "/api/items/1", "blue gets 75 %, green 25 %; the prefix /api/ becomes /"),
    ("GET", "shop.example", "/api/items/2", "the same route again"),
    ("POST", "shop.example", "/api/orders", "a body goes through in both directions"),
    ("GET", "shop.example", "/old/page", "a redirect with a rewritten prefix"),
    ("GET", "shop.example", "/slow", "the upstream takes longer than the route's timeout of 0.2 s"),
    ("GET", "nobody.example", "/", "no virtual host has this domain"),
];

fn play(once: bool) -> io::Result<()> {
    let paint = Paint(io::stdout().is_terminal());
    let out = &mut io::stdout().lock();
    let blue = upstream("blue")?;
    let green = upstream("green")?;
    let proxy = Proxy::start(blue, green)?;
    writeln!(
        out,
        "{}",
        paint.bold("Selvedge demo: two upstream servers, a proxy before them, real requests through it")
    )?;
    writeln!(out)?;
    writeln!(out, "  upstreams  http://{blue}  blue\n             http://{green}  green")?;
    writeln!(out, "  proxy      http://{}  for Host: shop.example", proxy.listener)?;
    writeln!(out, "  admin      http://{}  pages and stats", proxy.admin)?;
    writeln!(out, "  log        the proxy's access log, in Envoy's default format")?;
    for (number, (method, host, path, about)) in REQUESTS.iter().enumerate() {
        let begun = Instant::now();
        let answer = ask(proxy.listener, method, host, path)?;
        let took = begun.elapsed();
        writeln!(
            out,
            "\n{}  {}",
            paint.bold(&format!("{}. {method} {host}{path}", number + 1)),
            paint.dim(about)
        )?;
        writeln!(
            out,
            "   {} from {} in {:.2} ms",
            paint.status(&answer.status),
            answer.who(),
            took.as_secs_f64() * 1e3
        )?;
        if let Some(location) = answer.field("location") {
            writeln!(out, "   location: {location}")?;
        }
        if !answer.body.trim().is_empty() {
            writeln!(out, "   {}", answer.body.trim())?;
        }
        writeln!(out, "   {}", paint.dim(&format!("log: {}", proxy.log_line()?)))?;
    }
    writeln!(out, "\n{}", paint.bold("What the proxy counted"))?;
    for (name, about) in COUNTERS {
        writeln!(out, "  {:>3}  {}  {}", proxy.counter(name)?, about, paint.dim(name))?;
    }
    if once {
        return proxy.stop();
    }
    writeln!(out, "\nCtrl-C ends the demo. Until then its log lines appear here; try")?;
    writeln!(out, "  curl -i -H 'Host: shop.example' http://{}/api/items/7", proxy.listener)?;
    writeln!(out, "  curl 'http://{}/stats?filter=rq_total'\n", proxy.admin)?;
    loop {
        writeln!(out, "{}", paint.dim(&format!("log: {}", proxy.wait_line()?)))?;
    }
}

/// What is shown of the counters at the end.
const COUNTERS: &[(&str, &str)] = &[
    ("http.front.downstream_rq_total", "requests      "),
    ("http.front.downstream_rq_2xx", "answered 2xx  "),
    ("http.front.downstream_rq_3xx", "answered 3xx  "),
    ("http.front.downstream_rq_4xx", "answered 4xx  "),
    ("http.front.downstream_rq_5xx", "answered 5xx  "),
    ("cluster.blue.upstream_rq_total", "sent to blue  "),
    ("cluster.green.upstream_rq_total", "sent to green "),
];

/// Colours, where somebody looks at a terminal.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn status(self, text: &str) -> String {
        let colour = match text.as_bytes().first() {
            Some(b'2') => "32",
            Some(b'3') => "36",
            Some(b'4') => "33",
            _ => "31",
        };
        self.with(colour, text)
    }
}

/// A server that answers every request with its name and what it saw; `/slow` takes a second.
fn upstream(name: &'static str) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            // One thread a connection: the proxy opens few, and the process ends with the demo.
            thread::spawn(move || {
                let _peer_gone = serve_upstream(name, &socket);
            });
        }
    });
    Ok(address)
}

fn serve_upstream(name: &str, socket: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(socket);
    loop {
        let Some(head) = Message::read_head(&mut reader)? else { return Ok(()) };
        let body = head.read_body(&mut reader)?;
        let target = head.start.split(' ').nth(1).unwrap_or("/").to_owned();
        if target == "/slow" {
            thread::sleep(Duration::from_secs(1));
        }
        let text = format!(
            "{name} saw {} with {} body bytes\n",
            head.start.trim_end_matches(" HTTP/1.1"),
            body.len()
        );
        let answer =
            format!("HTTP/1.1 200 OK\r\nx-served-by: {name}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        (&*socket).write_all(answer.as_bytes())?;
    }
}

/// One HTTP/1.1 message, read in the simplest way that is right for this demo's own servers.
struct Message {
    start: String,
    fields: Vec<(String, String)>,
}

impl Message {
    fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Message>> {
        let mut start = String::new();
        if reader.read_line(&mut start)? == 0 {
            return Ok(None);
        }
        let mut fields = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line == "\r\n" {
                return Ok(Some(Message { start: start.trim_end().to_owned(), fields }));
            }
            if let Some((name, value)) = line.trim_end().split_once(':') {
                fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn read_body(&self, reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
        let mut whole = Vec::new();
        while self.field("transfer-encoding").is_some() {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; size + 2]; // the data and its line end
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                return Ok(whole);
            }
            whole.extend_from_slice(&chunk[..size]);
        }
        let length = self.field("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(body)
    }
}

struct Answer {
    status: String,
    head: Message,
    body: String,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    fn who(&self) -> &str {
        self.field("x-served-by").unwrap_or("the proxy")
    }
}

fn ask(to: SocketAddr, method: &str, host: &str, path: &str) -> io::Result<Answer> {
    let socket = TcpStream::connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let body = if method == "POST" { "three blue shirts" } else { "" };
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: selvedge-demo\r\n{length}\r\n{body}"
    );
    let sent = (&socket).write_all(request.as_bytes());
    sent.map_err(|e| io::Error::other(format!("the proxy takes no request: {e}")))?;
    let mut reader = BufReader::new(&socket);
    let head = Message::read_head(&mut reader)?
        .ok_or_else(|| io::Error::other("the proxy closed without an answer"))?;
    let body = String::from_utf8_lossy(&head.read_body(&mut reader)?).into_owned();
    let status = head.start.split_once(' ').map_or("?", |(_, s)| s).to_owned();
    Ok(Answer { status, head, body })
}

/// The proxy: a child process, ended when this is dropped.
struct Proxy {
    child: Child,
    listener: SocketAddr,
    admin: SocketAddr,
    log: Receiver<Event>,
}

/// What the demo waits for.
enum Event {
    Line(String),
    /// A signal asks it to end, and the proxy with it.
    End,
}

impl Event {
    fn line(self) -> io::Result<String> {
        match self {
            Event::Line(line) => Ok(line),
            Event::End => Err(io::ErrorKind::Interrupted.into()),
        }
    }
}

/// Turns the signals that would end the demo into an event: the proxy must not outlive it.
fn watch_signals(events: Sender<Event>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let inside = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(inside);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        let _ended_by_itself = events.send(Event::End);
    });
    Ok(())
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Proxy {
    fn start(blue: SocketAddr, green: SocketAddr) -> io::Result<Proxy> {
        let config = BOOTSTRAP
            .replace("port_value: 10001", &format!("port_value: {}", blue.port()))
            .replace("port_value: 10002", &format!("port_value: {}", green.port()));
        let address_file = AddressFile::new();
        let (lines, log) = mpsc::channel();
        watch_signals(lines.clone())?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--config-yaml", &config, "--concurrency", "1", "--log-level", "warning"])
            .args(["--file-flush-interval-msec", "20", "--disable-hot-restart", "--admin-address-path"])
            .arg(&address_file.0)
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            // Ctrl-C is for the demo, which then ends the proxy.
            .process_group(0)
            .spawn()?;
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if lines.send(Event::Line(line)).is_err() {
                        return;
                    }
                }
            });
        }
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut proxy = Proxy { child, listener: nowhere, admin: nowhere, log };
        proxy.admin = proxy.find_admin(&address_file.0)?;
        proxy.listener = proxy.find_listener()?;
        Ok(proxy)
    }

    /// The admin address, from the file that the proxy writes once it is bound.
    fn find_admin(&mut self, file: &Path) -> io::Result<SocketAddr> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("the proxy ended at start: {status}")));
            }
            if let Ok(address) = std::fs::read_to_string(file).unwrap_or_default().parse() {
                return Ok(address);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(io::Error::other("the proxy did not say its admin address"))
    }

    /// The listener's address, from `/listeners`, once the proxy is live.
    fn find_listener(&self) -> io::Result<SocketAddr> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let ready = ask(self.admin, "GET", "admin", "/ready")?;
            let listeners = ask(self.admin, "GET", "admin", "/listeners")?.body;
            let address = listeners.lines().find_map(|l| l.strip_prefix("front::")?.parse().ok());
            if let Some(address) = address
                && ready.status.starts_with("200")
            {
                return Ok(address);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(io::Error::other("the proxy did not become ready"))
    }

    fn counter(&self, name: &str) -> io::Result<u64> {
        let stats = ask(self.admin, "GET", "admin", "/stats")?.body;
        let value = stats.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")?.parse().ok());
        value.ok_or_else(|| io::Error::other(format!("the proxy has no stat {name}")))
    }

    fn log_line(&self) -> io::Result<String> {
        let event = self.log.recv_timeout(PATIENCE);
        event.map_err(|_| io::Error::other("no access-log line came"))?.line()
    }

    fn wait_line(&self) -> io::Result<String> {
        self.log.recv().map_err(|_| io::Error::other("the proxy ended"))?.line()
    }

    /// Asks the proxy to end by itself, and waits for it.
    fn stop(mut self) -> io::Result<()> {
        let _connection_may_end_first = ask(self.admin, "POST", "admin", "/quitquitquit");
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("the proxy ended with {status}")))
        }
    }
}

/// Where the proxy writes its admin address; removed with this value.
struct AddressFile(PathBuf);

impl AddressFile {
    fn new() -> AddressFile {
        AddressFile(std::env::temp_dir().join(format!("selvedge-demo-{}.address", std::process::id())))
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        let _never_written = std::fs::remove_file(&self.0);
    }
}

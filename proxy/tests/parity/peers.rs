//! The scripted upstreams of a group: sockets that accept, one that refuses and one that never answers a SYN.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::wire::{STEP_MAX, Wire};

#[derive(Debug)]
pub struct Upstream {
    pub name: &'static str,
    pub address: SocketAddr,
    accepted: Receiver<TcpStream>,
}

#[derive(Debug)]
pub struct Peers {
    pub upstreams: Vec<Upstream>,
    dead: tokio::net::TcpSocket,
    stuck: TcpListener,
    _filler: TcpStream,
}

impl Peers {
    pub fn open() -> Peers {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        // Bound and not listening: refuses, and nobody else gets the port.
        let dead = tokio::net::TcpSocket::new_v4().expect("a socket");
        dead.bind(any).expect("a port");
        let (stuck, filler) = stuck(any);
        Peers { upstreams: ["a", "b", "d"].map(Upstream::open).into(), dead, stuck, _filler: filler }
    }

    /// Address and the name it has in transcripts.
    pub fn names(&self) -> Vec<(String, String)> {
        let mut names: Vec<(String, String)> =
            self.upstreams.iter().map(|u| (u.name.to_owned(), u.address.to_string())).collect();
        names.push(("dead".to_owned(), self.dead.local_addr().expect("an address").to_string()));
        names.push(("stuck".to_owned(), self.stuck.local_addr().expect("an address").to_string()));
        names
    }

    pub fn accept(&self, name: &str) -> Option<Wire> {
        let upstream = self.upstreams.iter().find(|u| u.name == name)?;
        upstream.accepted.recv_timeout(STEP_MAX).ok().map(Wire::from)
    }

    /// Connections that no step has taken.
    pub fn unexpected(&self) -> Vec<(&'static str, Wire)> {
        let of = |u: &Upstream| {
            let name = u.name;
            u.accepted.try_iter().map(|s| (name, Wire::from(s))).collect::<Vec<_>>()
        };
        self.upstreams.iter().flat_map(of).collect()
    }
}

impl Upstream {
    fn open(name: &'static str) -> Upstream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (tell, accepted) = channel();
        // Ends with the process, as the listener does.
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if tell.send(socket).is_err() {
                    return;
                }
            }
        });
        Upstream { name, address, accepted }
    }
}

/// A listener whose queue is full: a further SYN is dropped.
fn stuck(any: SocketAddr) -> (TcpListener, TcpStream) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    let listener = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(any).expect("a port");
        socket.listen(0).expect("a queue").into_std().expect("a listener")
    });
    let filler =
        TcpStream::connect(listener.local_addr().expect("an address")).expect("the queue's one place");
    (listener, filler)
}

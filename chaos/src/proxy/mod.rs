//! A TCP proxy in front of one broker on this machine that understands Kafka's frames: on command it holds requests of
//! one kind and lets them go later (also when their client has long reconnected elsewhere), loses answers to requests
//! that were executed, cuts, stalls and delays. Never changes what a request says; of answers, only addresses and
//! offered versions ([`frames`]).
//!
//! A held request stalls its connection, as a slow network would: what the client sends behind it waits too. When that
//! client goes away, the way to the broker stays open until the held bytes are released or thrown away.

mod connection;
mod frames;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

pub use kafka_protocol::messages::ApiKey;

use self::connection::Connection;

/// Which proxy stands for which broker: the addresses brokers advertise are replaced by these. Shared by the proxies of
/// one cluster, so that a client that enters by one of them never gets around the others.
#[derive(Clone, Debug, Default)]
pub struct Routes(Arc<Mutex<BTreeMap<u16, u16>>>);

impl Routes {
    /// Who listens on `broker` is reached at `proxy`.
    fn add(&self, broker: u16, proxy: u16) {
        lock(&self.0).insert(broker, proxy);
    }

    /// The port to tell clients instead of the broker's own.
    fn instead_of(&self, broker: i32) -> i32 {
        let known = u16::try_from(broker).ok().and_then(|port| lock(&self.0).get(&port).copied());
        known.map_or(broker, i32::from)
    }
}

/// A running proxy; dropped, it closes every connection.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

/// An answer that came after its client had gone: what became of a request that was released late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateAnswer {
    /// The request's kind.
    pub api: ApiKey,
    /// The answer's frame from the correlation id on.
    pub frame: Vec<u8>,
}

/// Requests of one kind, so many of them.
#[derive(Clone, Copy, Debug)]
struct Quota {
    api: i16,
    left: usize,
}

impl Quota {
    /// Whether this one counts; it is taken off then.
    fn take(quota: &mut Option<Self>, api: i16) -> bool {
        match quota {
            Some(Self { api: wanted, left }) if *wanted == api && *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

/// What is done to traffic now.
#[derive(Debug, Default)]
struct Rules {
    hold: Option<Quota>,
    lose: Option<Quota>,
    delay: Duration,
    stalled: bool,
    refusing: bool,
    ended: bool,
}

struct Shared {
    broker: SocketAddr,
    routes: Routes,
    rules: Mutex<Rules>,
    /// Rules or the amount held have changed.
    changed: Condvar,
    connections: Mutex<Vec<Arc<Connection>>>,
    late: Mutex<Vec<LateAnswer>>,
    lost: Mutex<usize>,
    accepted: Mutex<usize>,
}

impl Proxy {
    /// Starts a proxy on a free port of 127.0.0.1 before the broker on `broker`.
    ///
    /// # Errors
    /// When no port or thread is to be had.
    pub fn start(broker: u16, routes: &Routes) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        routes.add(broker, port);
        let shared = Arc::new(Shared {
            broker: SocketAddr::from((Ipv4Addr::LOCALHOST, broker)),
            routes: routes.clone(),
            rules: Mutex::default(),
            changed: Condvar::new(),
            connections: Mutex::default(),
            late: Mutex::default(),
            lost: Mutex::default(),
            accepted: Mutex::default(),
        });
        let accepting = shared.clone();
        thread::Builder::new().name("proxy-accept".into()).spawn(move || accepting.accept(&listener))?;
        Ok(Self { port, shared })
    }

    /// Where clients connect, `127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on the next `count` requests of this kind are held, each with everything behind it on its connection.
    pub fn hold(&self, api: ApiKey, count: usize) {
        self.rule(|rules| rules.hold = Some(Quota { api: api as i16, left: count }));
    }

    /// How many requests are held, those behind others included.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.connections().iter().map(|connection| connection.held()).sum()
    }

    /// On how many connections a request of this kind is what holds everything up.
    #[must_use]
    pub fn held_of(&self, api: ApiKey) -> usize {
        self.shared.connections().iter().filter(|connection| connection.is_held_by(api)).count()
    }

    /// Holds nothing more, and lets go what is held, each on the connection it came on; gives how many requests.
    pub fn release(&self) -> usize {
        self.rule(|rules| rules.hold = None);
        self.shared.connections().iter().map(|connection| connection.release()).sum()
    }

    /// Lets go what is held on connections that a request of this kind holds up; gives how many requests.
    pub fn release_only(&self, api: ApiKey) -> usize {
        let connections = self.shared.connections();
        connections.iter().filter(|connection| connection.is_held_by(api)).map(|connection| connection.release()).sum()
    }

    /// The next `count` requests of this kind reach the broker and are executed; instead of the answer the client sees
    /// its connection end.
    pub fn lose_answers(&self, api: ApiKey, count: usize) {
        self.rule(|rules| rules.lose = Some(Quota { api: api as i16, left: count }));
    }

    /// How many answers have been lost so far.
    #[must_use]
    pub fn lost(&self) -> usize {
        *lock(&self.shared.lost)
    }

    /// How many connections clients have opened so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        *lock(&self.shared.accepted)
    }

    /// Clients lose their connections, and may connect again at once. What is held stays held.
    pub fn cut(&self) {
        for connection in self.shared.connections() {
            connection.cut();
        }
    }

    /// Nothing passes in either direction until [`Proxy::resume`]; connections stay open.
    pub fn stall(&self) {
        self.rule(|rules| rules.stalled = true);
    }

    /// Traffic flows again.
    pub fn resume(&self) {
        self.rule(|rules| rules.stalled = false);
    }

    /// New connections are closed at once while `refusing`; those that are open stay.
    pub fn refuse(&self, refusing: bool) {
        self.rule(|rules| rules.refusing = refusing);
    }

    /// Each request is kept this long before it goes on; zero ends it.
    pub fn delay(&self, delay: Duration) {
        self.rule(|rules| rules.delay = delay);
    }

    /// Undoes every rule; releases what is held.
    pub fn heal(&self) {
        self.rule(|rules| *rules = Rules::default());
        self.release();
    }

    /// Answers to requests that were released after their client had gone, oldest first.
    #[must_use]
    pub fn late_answers(&self) -> Vec<LateAnswer> {
        lock(&self.shared.late).clone()
    }

    fn rule(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut lock(&self.shared.rules));
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.rule(|rules| *rules = Rules { ended: true, ..Rules::default() });
        for connection in self.shared.connections() {
            connection.end();
        }
        // Wakes the accepting thread, which looks at the rules.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            let (ended, refusing) = {
                let rules = lock(&self.rules);
                (rules.ended, rules.refusing)
            };
            if ended {
                return;
            }
            let Ok(client) = client else { continue };
            if refusing {
                continue;
            }
            // No broker: the client sees its connection closed at once, as if there were no proxy.
            if let Ok(connection) = Connection::open(client, self.clone()) {
                let mut connections = lock(&self.connections);
                connections.retain(|other| !other.is_over());
                connections.push(connection);
                *lock(&self.accepted) += 1;
            }
        }
    }

    fn connections(&self) -> Vec<Arc<Connection>> {
        lock(&self.connections).clone()
    }

    /// Waits while traffic is stalled.
    fn pass(&self) {
        let mut rules = lock(&self.rules);
        while rules.stalled && !rules.ended {
            rules = self.changed.wait(rules).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
